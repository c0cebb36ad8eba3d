"""What the card of a model or data set says of its licence and languages, in a folder or on the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|code|multilingual")
"""A language as the Hub writes it: a code of ISO 639, perhaps with script or region, or a word for several."""


@dataclass(frozen=True)
class CardFacts:
    """What a card says; None and empty where it says nothing, or where there is no card.

    Args:
        licence: The licence in lower case, as the Hub writes it.
        licence_name: The name of a licence that the Hub has no identifier for (`other`).
        licence_link: Where that licence can be read.
        languages: Codes of languages.
    """

    licence: str | None = None
    licence_name: str | None = None
    licence_link: str | None = None
    languages: tuple[str, ...] = ()


def card_facts(source: str, revision: str | None = None, kind: str = "model") -> CardFacts:
    """Read the card of a folder or of a repository on the Hub; a card that cannot be read says nothing.

    Args:
        source: The folder, or the Hub id.
        revision: Branch, tag or commit on the Hub.
        kind: `model` or `dataset`.
    """
    from huggingface_hub import hf_hub_download, metadata_load
    from huggingface_hub.errors import HfHubHTTPError
    from yaml import YAMLError

    try:
        folder = Path(source).expanduser()
        card = folder / "README.md" if folder.is_dir() else None
        path = card or hf_hub_download(source, "README.md", revision=revision, repo_type=kind)
        return _facts(metadata_load(path) or {})
    except (OSError, ValueError, HfHubHTTPError, YAMLError):  # no card, no network, no valid front matter
        return CardFacts()


def _facts(metadata: dict[str, Any]) -> CardFacts:
    licence, languages = metadata.get("license"), metadata.get("language")
    if isinstance(licence, list) and len(licence) == 1:
        licence = licence[0]
    listed = languages if isinstance(languages, list) else [languages]
    return CardFacts(
        licence=licence.strip().lower() if isinstance(licence, str) else None,
        licence_name=_text(metadata.get("license_name")),
        licence_link=_text(metadata.get("license_link")),
        languages=tuple(one for one in listed if isinstance(one, str) and LANGUAGE.fullmatch(one)),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
