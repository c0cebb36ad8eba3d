"""The search of files for what must not leave the machine: tokens, keys, e-mail addresses, paths and names.

Every text is searched, and so is what is not text at first sight: the metadata and tensor names of safetensors, the
strings of JSON and YAML without their escapes, and the text of pictures. A tokenizer's vocabulary consists of
fragments of other people's texts, so it is searched for tokens and keys only. A find names file, line and kind, and
never any part of what was found.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_ft.publishing.machine_names import HOST, USER, own_names, own_paths, secret_values
from hf_ft.publishing.secret_patterns import EMAIL, LOCAL_PATH, PLACES, SECRETS

ALLOWABLE = {"email": EMAIL, "path": LOCAL_PATH, "user": USER, "host": HOST}
"""Kinds that a user may allow, by their short names: an address or a name may be meant for all, a token never is."""
HIDDEN = "***"
MARKDOWN_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")


@dataclass(frozen=True)
class Find:
    """Something that must not leave the machine: where it is, and its kind."""

    file: str
    place: str
    kind: str

    def __str__(self) -> str:
        return f"{' '.join(filter(None, (self.file, self.place)))}: {self.kind}"

    @property
    def line(self) -> int:
        """The number of its line; 0 where there are none."""
        number = self.place.removeprefix("line ")
        return int(number) if number.isdecimal() else 0


@dataclass(frozen=True)
class Search:
    """What to search for: kind -> pattern.

    Attributes:
        secrets: Searched for in every text.
        places: Not searched for in vocabularies.
    """

    secrets: dict[str, re.Pattern[str]]
    places: dict[str, re.Pattern[str]]

    @classmethod
    def on_this_machine(cls, folder: Path, public: Iterable[str] = (), tokens: Iterable[str | None] = ()) -> Search:
        """The kept patterns, and the paths, names and secret values of this machine.

        Args:
            folder: The folder of the result.
            public: Names that are published anyway, such as the namespace of the repository.
            tokens: Tokens in use, besides those in environment variables.
        """
        # A Hub id or a URL may end like a path.
        paths = [rf"(?<![\w/.-]){re.escape(path)}(?![\w-])" for path in own_paths(folder)]
        places = PLACES | {LOCAL_PATH: "|".join([PLACES[LOCAL_PATH], *paths])}
        for kind, names in own_names(public).items():
            if names:
                places[kind] = rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, names))})(?![A-Za-z0-9])"
        secrets = dict(SECRETS)
        for value, kind in secret_values(tokens).items():
            if value.isalpha():  # a word, which longer words contain
                places[kind] = rf"(?<![A-Za-z]){re.escape(value)}(?![A-Za-z])"
            else:
                secrets[kind] = re.escape(value)
        return cls(*({kind: re.compile(pattern) for kind, pattern in some.items()} for some in (secrets, places)))


@dataclass(frozen=True)
class _Text:
    """A text to search.

    Attributes:
        place: Where it is in the file; None if its own lines are those of the file.
        raw: The file in which the line of a match is looked up; None if there are no lines.
        vocabulary: Whether it holds fragments of other texts.
    """

    text: str
    place: str | None = None
    raw: str | None = None
    vocabulary: bool = False


def find_leaks(folder: Path, files: Iterable[Path], search: Search | None = None) -> list[Find]:
    """Return each find in files of a folder, by file and place."""
    search = search or Search.on_this_machine(folder)
    found: dict[Find, None] = {}
    for name in files:
        for text in _texts(folder / name):
            patterns = search.secrets if text.vocabulary else search.secrets | search.places
            for kind, pattern in patterns.items():
                for match in pattern.finditer(text.text):
                    found[Find(name.as_posix(), _place(text, match), kind)] = None
    return sorted(found, key=lambda find: (find.file, find.line))


def _place(text: _Text, match: re.Match[str]) -> str:
    if text.place is not None:
        return text.place
    if text.raw is None:
        return f"line {text.text.count(chr(10), 0, match.start()) + 1}"
    line = _line_of(match.group(0), text.raw)
    return f"line {line}" if line else ""


def _line_of(text: str, raw: str) -> int | None:
    """Return the line of a file that contains a text, verbatim or with JSON escapes."""
    spelled = (text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1])
    place = next((place for form in spelled if (place := raw.find(form)) >= 0), None)
    return None if place is None else raw.count("\n", 0, place) + 1


# --- Texts of a file --------------------------------------------------------------------------------------------------


def _texts(path: Path) -> Iterator[_Text]:
    """Yield all texts in a file."""
    if path.suffix == ".safetensors":
        yield from _of_safetensors(path)
        return
    if path.suffix == ".png":
        yield from _of_picture(path)
        return
    raw = path.read_bytes().decode("utf-8", "replace")
    if path.suffix == ".json" and not _is_vocabulary(path.name):
        yield from _of_json(path.name, raw)
        return
    yield _Text(raw, vocabulary=_is_vocabulary(path.name))
    if path.suffix == ".md":
        yield _Text(html.unescape(MARKDOWN_ESCAPE.sub(r"\1", raw)))  # as a reader sees it: `hf\_` is shown as `hf_`
    header = _yaml_of(path, raw)
    if header is not None:
        yield _Text("\n".join(_strings(header)), raw=raw)


def _of_safetensors(path: Path) -> Iterator[_Text]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        for field, value in (file.metadata() or {}).items():
            yield _Text(field, "metadata")
            yield _Text(f"{field}: {value}\n{value}", f"metadata '{field}'")
            yield from (_Text(text, f"metadata '{field}'") for text in _strings(_json_or_none(value)))
        yield _Text("\n".join(file.keys()), "names of tensors")


def _of_picture(path: Path) -> Iterator[_Text]:
    from PIL import Image

    with Image.open(path) as picture:
        for field, value in picture.info.items():
            yield _Text(f"{field}: {value}", f"metadata '{field}'")


def _of_json(name: str, raw: str) -> Iterator[_Text]:
    content = _json_or_none(raw)
    if content is None:
        yield _Text(raw)
        return
    yield _Text(raw, vocabulary=True)  # keys beside their values; their strings follow without escapes
    model = content.get("model") if name == "tokenizer.json" and isinstance(content, dict) else None
    if isinstance(model, dict):
        pieces = [model.pop(part, None) for part in ("vocab", "merges")]
        yield _Text("\n".join(_strings(pieces)), raw=raw, vocabulary=True)
    yield _Text("\n".join(_strings(content)), raw=raw)


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _yaml_of(path: Path, raw: str) -> Any:
    """Return the content of a YAML file, or of the block that a card begins with; None if there is none."""
    import yaml

    block = re.match(r"---\r?\n(.*?)\n---", raw, re.DOTALL) if path.suffix == ".md" else None
    text = raw if path.suffix in (".yaml", ".yml") else block and block.group(1)
    try:
        return yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        return None


def _is_vocabulary(name: str) -> bool:
    return name.startswith(("vocab", "merges")) or name.endswith((".model", ".spm", ".bpe", ".codes", ".tiktoken"))


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON or YAML value, keys included, without escapes."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


# --- Command lines and messages ---------------------------------------------------------------------------------------


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


def masked(text: str, tokens: Iterable[str | None] = ()) -> str:
    """Return a message of a library without anything that looks like a token, and without these."""
    for token in filter(None, tokens):
        text = text.replace(token, HIDDEN)
    return re.sub("|".join(SECRETS.values()), HIDDEN, text)
