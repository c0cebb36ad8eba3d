"""What looks like a token, a key or a place: the patterns that published files are searched for.

Patterns of tokens have no word boundaries, because a token may directly follow other letters; they match the vendor's
exact format instead. To add a kind, add its pattern here and an example to `PLANTED` in the tests.
"""

from __future__ import annotations

SECRETS = {
    "Hugging Face token": r"hf_[A-Za-z0-9]{20,}|hf_oauth_[\w-]{20,}|api_org_[A-Za-z0-9]{20,}",
    "OpenAI key": r"sk-(?:proj|svcacct|admin|None)-[\w-]{20,}|(?<![A-Za-z0-9])sk-[A-Za-z0-9]{32,}",
    "Anthropic key": r"sk-ant-[\w-]{20,}",
    "AWS key": r"(?:AKIA|ASIA)[A-Z2-7]{16}|(?i:aws_(?:secret_access_key|session_token))\W{1,6}[\w/+=]{40,}",
    "GitHub token": r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}",
    "GitLab token": r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat)-[\w-]{20,}",
    "Slack token": r"xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/[\w/]{20,}",
    "Discord webhook": r"discord(?:app)?\.com/api/webhooks/\d{15,}/[\w-]{40,}",
    "Telegram token": r"(?<!\d)\d{8,10}:AA[\w-]{33}(?![\w-])",
    "Google key": r"AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}",
    "Weights & Biases key": (
        r"(?i:wandb)[^\n]{0,30}?(?i:key|login|password)[^\n]{0,20}?(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])"
        r"|wandb_v1_\w{20,}"  # forty hexadecimal digits alone are a commit
    ),
    "LangSmith key": r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}",
    "Kaggle key": r"(?:KAGGLE_KEY|\"key\")[\"']?\s*[:=]\s*[\"']?[0-9a-f]{32}(?![0-9a-f])|KGAT_[0-9a-f]{32}",
    "Stripe key": r"[sr]k_live_[A-Za-z0-9]{16,}",
    "npm token": r"npm_[A-Za-z0-9]{36}",
    "PyPI token": r"pypi-AgE[\w-]{50,}",
    "Docker Hub token": r"dckr_(?:pat|oat)_[\w-]{27,}",
    "SendGrid key": r"SG\.[\w-]{22}\.[\w-]{43}",
    "Twilio key": r"(?<![A-Za-z0-9])SK[0-9a-f]{32}(?![0-9a-f])",
    "Azure key": r"AccountKey=[A-Za-z0-9/+=]{40,}|SharedAccessKey=[A-Za-z0-9/+=]{40,}",
    "DigitalOcean token": r"do[opr]_v1_[0-9a-f]{64}",
    "Vault token": r"hv[sbr]\.[\w-]{24,}",
    "Databricks token": r"dapi[0-9a-f]{32}",
    "Replicate token": r"r8_[A-Za-z0-9]{37}",
    "Groq key": r"gsk_[A-Za-z0-9]{40,}",
    "Perplexity key": r"pplx-[A-Za-z0-9]{40,}",
    "xAI key": r"xai-[A-Za-z0-9]{60,}",
    "Pinecone key": r"pcsk_[A-Za-z0-9_]{40,}",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|AGE-SECRET-KEY-1[A-Z0-9]{50,}|PuTTY-User-Key-File",
    "JSON web token": r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{5,}",
    "password in an address": r"[a-z][a-z0-9+.-]*://[^\s/:@\"']+:[^\s/@\"']+@",
    "password or key": (
        r"(?i:password|passwd|secret|secret_key|api_?key|access_?key|auth_?token|access_?token|hub_token|bearer)"
        r"[\"']?(?:[ \t]*[:=][ \t]*|(?<=bearer)[ \t]+|(?<=Bearer)[ \t]+)[\"']?"
        r"(?=[^\s\"']*[0-9])(?=[^\s\"']*[A-Za-z])[^\s\"',;]{8,}"
    ),
}
"""Kind of secret -> its pattern."""

ROOTS = (
    "home|root|[Uu]sers|tmp|work|workspaces?|mnt|media|data|datasets|var|opt|usr|etc|srv|scratch|nfs[\\w-]*|content|kaggle"
    "|lustre|gpfs|fsx|efs|dbfs|Volumes|private|export|proj|projects|cluster|storage|teamspace|notebooks|app"
)
LOCAL_PATH, EMAIL = "local path", "e-mail address"
PLACES = {
    LOCAL_PATH: (
        rf"(?<![\w/.])/(?:{ROOTS})/[^\s\"'<>)\]]+"  # not within a URL or a relative path
        r"|(?<![\w?])[A-Za-z]:(?:\\{1,2}|/(?!/))[\w.$~-]+"
        r"|(?<![\\\w])\\{2,4}[A-Za-z][\w.-]+\\{1,2}[\w$.-]+"
        r"|file:/{1,3}[^\s\"'<>)\]]+"
    ),
    EMAIL: r"(?<![\w.+-])(?!git@)[\w.+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}(?![\w-])",
}
"""Kind of place -> its pattern; vocabularies are not searched for these."""
