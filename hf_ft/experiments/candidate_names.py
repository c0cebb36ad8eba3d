"""How candidates of a ranking are named and recognised: short names, and hashes of content and location."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_ft.errors import UserError
from hf_ft.storage import files_digest, text_digest


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Return each model -> its last parts, as many as distinguish the models; the same model counts once."""
    parts: dict[tuple[str, ...], str] = {}
    for model in models:
        path = Path(model).expanduser()
        parts.setdefault(path.resolve().parts if path.exists() else path.parts, model)
    for depth in range(1, max(map(len, parts), default=0) + 1):
        short = ["/".join(name[-depth:]).removeprefix("//") for name in parts]
        if len(set(short)) == len(parts):
            break
    return dict(zip(parts.values(), short, strict=True)) if parts else {}


def location_of(model: str) -> str:
    """Return a hash of a model's folder or Hub id: recognises the place without recording a local path."""
    path = Path(model).expanduser()
    return text_digest(str(path.resolve() if path.exists() else path))


def identity_of(model: str) -> str:
    """Return what changes when a model's weights do: the hash of a folder's files, or the Hub id itself."""
    from hf_ft.models import resolve_model

    try:
        folder = Path(resolve_model(model))
    except UserError:
        return model
    if not folder.is_dir():
        return model
    return files_digest(sorted(path for path in folder.iterdir() if path.is_file()), names=True)
