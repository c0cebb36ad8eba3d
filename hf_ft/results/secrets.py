"""Search for tokens, keys, passwords, e-mail addresses and local paths in a result before it is published.

Patterns of tokens have no word boundaries, because a token may directly follow other letters; they match the vendor's
exact format instead. A tokenizer's vocabulary consists of fragments of other people's texts, so it is searched for
tokens and keys only, not for paths or addresses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SECRETS = {
    "Hugging Face token": r"hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}",
    "OpenAI key": r"sk-(?:proj|svcacct|admin|None)-[\w-]{20,}|(?<![A-Za-z0-9])sk-[A-Za-z0-9]{32,}",
    "Anthropic key": r"sk-ant-[\w-]{20,}",
    "AWS key": r"(?:AKIA|ASIA)[A-Z2-7]{16}|(?i:aws_(?:secret_access_key|session_token))\W{1,6}[\w/+=]{40,}",
    "GitHub token": r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}",
    "GitLab token": r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat)-[\w-]{20,}",
    "Slack token": r"xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/[\w/]{20,}",
    "Google key": r"AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}",
    "Weights & Biases key": r"(?i:wandb)[^\n]{0,30}?(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])|wandb_v1_\w{20,}",
    "Stripe key": r"[sr]k_live_[A-Za-z0-9]{16,}",
    "npm token": r"npm_[A-Za-z0-9]{36}",
    "PyPI token": r"pypi-AgE[\w-]{50,}",
    "SendGrid key": r"SG\.[\w-]{22}\.[\w-]{43}",
    "Azure key": r"AccountKey=[A-Za-z0-9/+=]{40,}",
    "Databricks token": r"dapi[0-9a-f]{32}",
    "Replicate token": r"r8_[A-Za-z0-9]{37}",
    "Groq key": r"gsk_[A-Za-z0-9]{40,}",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----",
    "JSON web token": r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{5,}",
    "password in an address": r"[a-z][a-z0-9+.-]*://[^\s/:@\"']+:[^\s/@\"']+@",
    "password or key": (
        r"(?i:password|passwd|secret|secret_key|api_?key|access_?key|auth_?token|access_?token|hub_token)"
        r"[\"']?[ \t]*[:=][ \t]*[\"']?(?=[^\s\"']*[0-9])(?=[^\s\"']*[A-Za-z])[^\s\"',;]{8,}"
    ),
}
"""Kind of secret -> its pattern."""

HIDDEN = "***"

ROOTS = (
    "home|root|[Uu]sers|tmp|work|workspaces?|mnt|media|data|datasets|var|opt|usr|etc|srv|scratch|nfs[\\w-]*|content|kaggle"
    "|lustre|gpfs|fsx|efs|dbfs|Volumes|private|export|proj|projects|cluster|storage|teamspace|notebooks|app"
)
PLACES = {
    "local path": (
        rf"(?<![\w/.])/(?:{ROOTS})/[^\s\"'<>)\]]+"  # not within a URL or a relative path
        r"|(?<![\w?])[A-Za-z]:(?:\\{1,2}|/(?!/))[\w.$~-]+"
        r"|(?<![\\\w])\\{2,4}[A-Za-z][\w.-]+\\{1,2}[\w$.-]+"
        r"|file:/{1,3}[^\s\"'<>)\]]+"
    ),
    "e-mail address": r"(?<![\w.+-])(?!git@)[\w.+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}(?![\w-])",
}
"""Kind of place -> its pattern; vocabularies are not searched for these."""


def find_leaks(folder: Path, files: list[Path]) -> list[str]:
    """Return file, line, kind and first characters of each secret or local path in files of a folder."""
    here = [str(path) for path in (Path.home(), Path.cwd(), folder.resolve()) if len(str(path)) > 5]
    bounded = [rf"(?<![\w/.-]){re.escape(path)}(?![\w-])" for path in here]  # a Hub id or URL may end alike
    local = {"local path": "|".join([PLACES["local path"], *bounded])}
    everything = {kind: re.compile(pattern) for kind, pattern in (SECRETS | PLACES | local).items()}
    secrets = {kind: everything[kind] for kind in SECRETS}
    found: dict[tuple[Path, str], str] = {}
    for name in files:
        for text, patterns, raw in _texts(folder / name, everything, secrets):
            for kind, pattern in patterns.items():
                for match in pattern.finditer(text):
                    line = _line_of(match.group(0), raw)
                    found.setdefault((name, match.group(0)), f"{name}{line}: {kind} {match.group(0)[:6].strip()}…")
    return list(found.values())


def without_secrets(words: Sequence[str]) -> list[str]:
    """Return a command line without secrets: values of options named like one, and words that look like a token."""
    shape, secret = (
        re.compile("|".join(SECRETS.values())),
        re.compile(r"^--?\w*(token|password|passwd|secret|key)$", re.I),
    )
    clean, hide = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        if hide and not word.startswith("--"):
            clean.append(HIDDEN)
        elif equals and secret.match(name):
            clean.append(f"{name}={HIDDEN}")
        else:
            clean.append(shape.sub(HIDDEN, word))
        hide = bool(secret.match(word))
    return clean


def _texts(path: Path, everything: Any, secrets: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield the texts in a file, each with the patterns to search for, and the raw file for line numbers."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            yield "\n".join([*(file.metadata() or {}), *(file.metadata() or {}).values(), *file.keys()]), everything, ""
        return
    if path.suffix in (".png", ".svg"):  # rendered by hf_ft, and verified to be unchanged
        return
    raw = path.read_bytes().decode("utf-8", "replace")
    if _is_vocabulary(path.name):
        yield raw, secrets, raw
        return
    try:
        content = json.loads(raw) if path.suffix == ".json" else None
    except ValueError:
        content = None
    if content is None:
        yield raw, everything, raw
        return
    model = content.get("model") if path.name == "tokenizer.json" and isinstance(content, dict) else None
    if isinstance(model, dict):
        pieces = [model.pop(name, None) for name in ("vocab", "merges")]
        yield "\n".join(_strings(pieces)), secrets, raw
    else:
        yield raw, secrets, raw  # keys beside their values
    yield "\n".join(_strings(content)), everything, raw


def _is_vocabulary(name: str) -> bool:
    return name.startswith(("vocab", "merges")) or name.endswith((".model", ".spm", ".bpe", ".codes", ".tiktoken"))


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value, keys included, without JSON escapes."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _line_of(text: str, raw: str) -> str:
    """Return the line of a file that contains a text, verbatim or with JSON escapes."""
    spelled = (text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1])
    place = next((place for form in spelled if (place := raw.find(form)) >= 0), None)
    return " (metadata)" if not raw else "" if place is None else f" line {raw.count(chr(10), 0, place) + 1}"
