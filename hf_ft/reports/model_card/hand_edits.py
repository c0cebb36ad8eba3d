"""Edits that people made to a card survive when it is made again: which pieces hf_ft wrote, and which they changed.

A card has two kinds of pieces: keys of the metadata, and sections (`## ...`), of which the first is what comes before
any heading. Its last line is a comment, which pages do not show, with a digest of each piece as it was generated. A
piece with another content than that was edited, and stays; one without a digest was added, and stays; one with a digest
that is gone was removed or renamed, and does not come back.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BEGIN, END = "<!-- hf_ft card ", " -->"
FRONT = re.compile(r"---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
Digests = dict[str, dict[str, str]]


class CardError(ValueError):
    """A card that cannot be made again: nothing says which pieces of it are generated, or its metadata are broken."""


@dataclass
class Page:
    """A card in pieces.

    Args:
        front: The metadata as it is written; empty if there is none.
        metadata: What it says.
        sections: Name of each section -> its text, in order; "" is what comes before the first heading.
        digests: For `metadata` and `sections`, the digest of each piece as generated; None without the line.
    """

    front: str
    metadata: dict[str, Any]
    sections: dict[str, str]
    digests: Digests | None = None
    edited: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The card with its line of digests."""
        body = "\n\n".join(part for part in (one.strip("\n") for one in self.sections.values()) if part)
        front = f"---\n{self.front.strip()}\n---\n\n" if self.front.strip() else ""
        seal = f"\n\n{BEGIN}{json.dumps(self.digests, sort_keys=True)}{END}" if self.digests is not None else ""
        return f"{front}{body}{seal}\n"


def digest(piece: Any) -> str:
    """Return a short hash of a section or a value; blanks at line ends and around it do not count."""
    text = piece if isinstance(piece, str) else json.dumps(piece, sort_keys=True, default=str)
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def parse(card: str) -> Page:
    """Split a card into its pieces.

    Raises:
        CardError: The metadata are no mapping in YAML.
    """
    import yaml

    text, digests = _without_digests(card.replace("\r\n", "\n"))
    match = FRONT.match(text)
    front, body = (match.group(1), text[match.end() :]) if match else ("", text)
    try:
        metadata = yaml.safe_load(front) or {}
    except yaml.YAMLError as error:
        raise CardError(f"its metadata cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(metadata, dict):
        raise CardError("its metadata are no mapping")
    return Page(front, metadata, _sections(body), digests)


def sealed(card: str) -> str:
    """Return a generated card with the line of digests."""
    page = parse(card)
    page.digests = {"metadata": _digests(page.metadata), "sections": _digests(page.sections)}
    return page.text


def merged(old: str, new: str) -> Page:
    """Return a newly generated card (`sealed`) with all that people changed in the old one.

    Its `edited` names the pieces that differ from the generated ones.

    Raises:
        CardError: The old card has no line of digests, or its metadata cannot be read.
    """
    mine, fresh = parse(old), parse(new)
    if mine.digests is None:
        raise CardError("it does not end with the line that says which parts hf_ft wrote")
    assert fresh.digests is not None
    edited: list[str] = []
    sections = _merged(mine.sections, fresh.sections, mine.digests["sections"], edited)
    metadata = _merged(mine.metadata, fresh.metadata, mine.digests["metadata"], edited)
    front = mine.front if metadata == mine.metadata else _dump(metadata)
    gone = {name for pieces in (mine.sections, mine.metadata) for name in pieces} - {
        *sections,
        *metadata,
    }  # no longer generated, and not edited: they may come back
    digests = {
        kind: {name: one for name, one in mine.digests[kind].items() if name not in gone} | fresh.digests[kind]
        for kind in ("metadata", "sections")
    }
    return Page(front, metadata, sections, digests, edited)


def changed(card: str, name: str, change: Callable[[str], str]) -> str:
    """Return a card with one section changed, which is no edit: what was as generated still is.

    A card without the line of digests is changed as a whole.
    """
    page = parse(card)
    if page.digests is None:
        return change(card)
    if name in page.sections:
        before = page.sections[name]
        page.sections[name] = change(before)
        if page.digests["sections"].get(name) == digest(before):
            page.digests["sections"][name] = digest(page.sections[name])
    return page.text


def _merged(
    mine: Mapping[str, Any], fresh: Mapping[str, Any], known: Mapping[str, str], edited: list[str]
) -> dict[str, Any]:
    """The pieces of both, in the order of the old card; new ones follow the piece that they follow when generated."""
    found: dict[str, Any] = {}
    for name, piece in mine.items():
        if name not in known or digest(piece) != known[name]:
            found[name] = piece
            edited.append(name)
        elif name in fresh:
            found[name] = fresh[name]
    edited += [name for name in known if name not in mine and name in fresh]  # removed: they do not come back
    before: str | None = None
    for name in fresh:
        if name not in mine and name not in known:
            found = _inserted(found, name, fresh[name], before)
        before = name if name in found else before
    return found


def _inserted(pieces: dict[str, Any], name: str, piece: Any, before: str | None) -> dict[str, Any]:
    names = list(pieces)
    place = names.index(before) + 1 if before is not None else 0
    return {one: piece if one == name else pieces[one] for one in [*names[:place], name, *names[place:]]}


def _without_digests(text: str) -> tuple[str, Digests | None]:
    """The card without its line of digests, and what that says; the last such line counts."""
    start = text.rfind(BEGIN)
    end = text.find(END, start)
    if start < 0 or end < 0:
        return text, None
    try:
        found = json.loads(text[start + len(BEGIN) : end])
        digests = {
            kind: {str(name): str(one) for name, one in found[kind].items()} for kind in ("metadata", "sections")
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return text, None
    return text[:start].rstrip() + "\n" + text[end + len(END) :], digests


def _sections(body: str) -> dict[str, str]:
    """The sections of a page by their headings; a second one of the same name gets a number."""
    pieces: list[tuple[str, list[str]]] = [("", [])]
    fence = ""
    for line in body.splitlines():
        opened = FENCE.match(line)
        if opened and not fence:
            fence = opened.group(1)
        elif opened and opened.group(1).startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        if not fence and line.startswith("## "):
            pieces.append((line[3:].strip(), []))
        pieces[-1][1].append(line)
    found: dict[str, str] = {}
    for name, lines in pieces:
        free = next(one for one in _names(name) if one not in found)
        found[free] = "\n".join(lines).strip("\n")
    return found


def _names(name: str) -> Sequence[str]:
    return [name, *(f"{name} ({number})" for number in range(2, 1000))]


def _digests(pieces: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): digest(piece) for name, piece in pieces.items()}


def _dump(metadata: Mapping[str, Any]) -> str:
    from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]  # documented, not in `__all__`

    return str(yaml_dump(dict(metadata), sort_keys=False))
