"""What a result folder holds: which files may be published, what must not stand in them, and how it is cleared."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from hf_ft.lookup import UserError, shorten

PUBLISHED = (
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "README.md",
    "run.json",
    "figures/*.png",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "adapter/README.md",
)
"""All that may be published of a result folder, as glob patterns; everything else stays here."""


def publishable(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of a result folder that may be published, and those that stay here, both relative to it.

    Raises:
        UserError: the folder holds no finished run.
    """
    if not (folder / "run.json").exists():
        raise UserError(f"{folder} holds no finished run (no run.json in it). Give the --output_dir of a training run.")
    allowed = {path for pattern in PUBLISHED for path in folder.glob(pattern) if path.is_file()}
    every = {path for path in folder.rglob("*") if path.is_file()}
    return sorted(p.relative_to(folder) for p in allowed), sorted(p.relative_to(folder) for p in every - allowed)


SECRETS = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,})\b")
PATHS = re.compile(
    r"(?<![\w:/.])(/(?:home|root|Users|tmp|work|mnt|data|var|opt|srv|scratch)/[^\s\"'<>)\]]+|[A-Z]:\\\\?Users\\\\?[^\s\"']+)"
)


def leaks(folder: Path, files: list[Path]) -> list[str]:
    """What must not be published in the text files: `file: text` for each token or path of this machine."""
    found = []
    here = [str(Path.home()), str(Path.cwd()), str(folder.resolve())]
    for name in files:
        if (
            name.suffix in (".json", ".md", ".txt", ".jinja")
            and name.name != "tokenizer.json"
            and "vocab" not in name.name
        ):
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            hits = [match.group(0) for match in (*SECRETS.finditer(text), *PATHS.finditer(text))]
            hits += [path for path in here if len(path) > 5 and path in text]
            found += [f"{name}: {hit[:60]}" for hit in dict.fromkeys(hits)]
    return found


def push(folder: Path, repo_id: str, private: bool = False, dry_run: bool = False) -> list[str]:
    """Publish a result folder on the Hub: the whitelisted files and nothing else; returns the lines to print.

    Raises:
        UserError: no finished run, files that hold a token or a path of this machine, or the Hub refuses.
    """
    files, kept = publishable(folder)
    hits = leaks(folder, files)
    if hits:
        raise UserError(f"Nothing was published: {shorten(hits)}. Remove these from the files first.")
    total = sum((folder / name).stat().st_size for name in files)
    lines = [f"To {repo_id} ({'private' if private else 'public'}): {len(files)} files, {total / 1e6:.1f} MB"]
    lines += [f"  {name}  {(folder / name).stat().st_size:,} bytes" for name in files]
    lines += [f"Stays here: {shorten(kept, 8)}"] if kept else []
    if dry_run:
        return [*lines, "Dry run: nothing was published."]
    return [*lines, f"Published: {_upload(folder, repo_id, private, files)}"]


def _upload(folder: Path, repo_id: str, private: bool, files: list[Path]) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=[str(name) for name in files],
            commit_message="Model trained with hf_ft",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"The Hub did not take it: {reason} Log in with `hf auth login`, and check --repo_id."
        ) from error
    return str(commit)


def clear(folder: Path) -> None:
    """Remove an earlier run from a folder, and nothing that a run did not write there."""
    if not folder.is_dir():
        return
    for path in {path for pattern in PUBLISHED for path in folder.glob(pattern)}:
        path.unlink()
    for name in ("checkpoints", ".local", "figures", "adapter"):
        shutil.rmtree(folder / name, ignore_errors=True)
