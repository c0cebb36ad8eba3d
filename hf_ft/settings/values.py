"""One value of an option: from text to its type, and whether it may be what it is."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from hf_ft.errors import UserError, choose
from hf_ft.methods import MethodSpec
from hf_ft.settings.ranges import check_range

TYPES = {"bool": bool, "int": Integral, "float": Real, "str": str, "dict": dict, "list": list}
"""Kind of value, as an annotation spells it -> the class of such values."""

WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "dict": "a JSON object",
    "str": "text",
    "list": "text",
}
"""Kind of value -> what messages call it."""

OBJECTS = {
    "dataset": "Only finetune() and load_splits() read data in memory: write them with save_to_disk(FOLDER) first",
    "model": "Models in memory are not supported yet: write them with save_pretrained(FOLDER) and pass the folder",
}
"""Option -> what to do with an object that was passed in place of a name."""

NUMBER_WORDS = {"ema": ("auto",), "early_stopping_patience": ("auto", "none"), "threshold": ("auto",)}
"""Setting -> the words that it takes beside numbers."""


def read_value(name: str, value: Any, annotation: str, choices: Sequence[str] = ()) -> Any:
    """Turn text (from a command line, or YAML's `1e-3`) into the type that an annotation names, and check it.

    Raises:
        UserError: a value of the wrong type, not among the choices, or out of range.
    """
    if annotation == "MethodSpec":
        return value if value is None or isinstance(value, MethodSpec) else MethodSpec.parse(_text(name, value))
    value = _convert(name, value, annotation, choices)
    _check(name, value, choices)
    return value


def check_value(name: str, value: Any, annotation: str, choices: Sequence[str] = ()) -> None:
    """Check a value that is not text for something else, such as a field of a section.

    Raises:
        UserError: a value of the wrong type, not among the choices, or out of range.
    """
    kinds = _kinds(annotation)
    if value is None and "None" in kinds:
        return
    if annotation == "MethodSpec":
        if not isinstance(value, MethodSpec):
            raise UserError(
                f"'{name}' takes a MethodSpec, not {value!r}.",
                option=name,
                value=value,
                hint=f"Use MethodSpec.parse({value!r}).",
            )
        return
    if not any(_is(value, kind) for kind in kinds & {*TYPES}):
        raise _wrong_type(name, value, kinds)
    _check(name, value, choices)


def _check(name: str, value: Any, choices: Sequence[str]) -> None:
    if isinstance(value, str) and name in NUMBER_WORDS and value not in NUMBER_WORDS[name]:
        listed = " or ".join(("a number", *NUMBER_WORDS[name]))
        raise UserError(f"'{name}' takes {listed}, not '{value}'.", option=name, value=value)
    if choices and value is not None and not isinstance(value, dict):  # weights by name, where rules have names
        choose(str(getattr(value, "value", value)), choices, f"value for '{name}':", option=name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        check_range(name, value, f"'{name}'")


def _kinds(annotation: str) -> set[str]:
    return {part.strip().split("[")[0] for part in annotation.replace('"', "").split("|")}


def _convert(name: str, value: Any, annotation: str, choices: Sequence[str]) -> Any:
    kinds = _kinds(annotation)
    if name == "resume_from_checkpoint":
        kinds |= {"bool"}  # `Trainer` takes true as well: resume from the last checkpoint
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bool):  # as YAML reads `on`, `off` and `no`
        value = next((word for word in (("on",) if value else ("off", "no")) if word in choices), value)
    if isinstance(value, float) and value.is_integer() and "int" in kinds and "float" not in kinds:
        value = int(value)
    if not isinstance(value, str):
        if value is not None and kinds <= {*TYPES, "None"} and not any(_is(value, kind) for kind in kinds - {"None"}):
            raise _wrong_type(name, value, kinds)
        return value
    if value.lower() in ("none", "null") and "None" in kinds and value not in choices:
        return None
    if "dict" in kinds and value.lstrip().startswith("{") and _parse(value, "dict") is None:
        raise UserError(f"'{name}' takes a JSON object, not '{value}'.", option=name, value=value)
    for kind in ("bool", "int", "float", "dict", "list"):
        if kind in kinds and (parsed := _parse(value, kind)) is not None:
            return parsed
    if kinds & {"str", "list"}:
        return value
    raise UserError(f"'{name}' takes {_spoken(kinds)}, not '{value}'.", option=name, value=value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong_type(name, value, {"str"})
    return value


def _wrong_type(name: str, value: Any, kinds: set[str]) -> UserError:
    """The error for a value of the wrong type: as it was written, unless it is a whole object."""
    plain = isinstance(value, bool | int | float | str | list | tuple | dict) or value is None
    if plain and len(repr(value)) <= 80:
        shown = repr(value)
    else:
        hint = f". {OBJECTS[name]}" if name in OBJECTS else ""
        shown = f"an object of type {type(value).__name__}{hint}"
    return UserError(f"'{name}' takes {_spoken(kinds)}, not {shown}.", option=name, value=value)


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and (isinstance(value, bool) == (kind == "bool"))


def _parse(text: str, kind: str) -> Any:
    """Text as a value of a kind, None where it is not one."""
    if kind == "bool":
        return {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}.get(text.lower())
    try:
        if kind in ("int", "float"):
            return (int if kind == "int" else float)(text)
        parsed = json.loads(text)
        return parsed if isinstance(parsed, TYPES[kind]) else None
    except ValueError:
        return None


def _spoken(kinds: set[str]) -> str:
    words = (WORDS.get(kind, f"an object of type {kind}") for kind in sorted(kinds - {"None"}))
    return " or ".join(dict.fromkeys(words))
