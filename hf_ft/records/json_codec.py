"""Conversion of dataclasses to JSON values and back, guided by their annotations.

Own code, because records use only six kinds of annotation (dataclass, list, dict, optional, union of scalars, Any), and
reading must be strict: a missing, unknown or wrongly typed field is an error that names its place.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Malformed(ValueError):
    """A JSON value does not fit a record; the message names the field."""


def to_json(record: Any) -> Any:
    """Return a record as plain JSON values; tuples become lists."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {item.name: to_json(getattr(record, item.name)) for item in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {name: to_json(value) for name, value in record.items()}
    return [to_json(value) for value in record] if isinstance(record, list | tuple) else record


def from_json(kind: type[T], value: Any, place: str = "") -> T:
    """Return a dataclass from the output of `to_json`.

    Args:
        kind: The dataclass.
        value: The JSON value.
        place: Dotted path of the value within the file, for messages.

    Raises:
        Malformed: A field is missing, unknown or of another type.
    """
    if not isinstance(value, Mapping):
        raise Malformed(f"'{place or kind.__name__}' is not an object")
    hints: dict[str, Any] = _hints(kind)  # type: ignore[arg-type]  # classes are hashable
    prefix = f"{place}." if place else ""
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(value.keys() - fields.keys()):
        raise Malformed(f"'{prefix}{unknown[0]}' is unknown")
    missing = dataclasses.MISSING
    required = [name for name, item in fields.items() if item.default is missing and item.default_factory is missing]
    if lacking := [name for name in required if name not in value]:
        raise Malformed(f"'{prefix}{lacking[0]}' is missing")
    return kind(**{name: _decoded(hints[name], value[name], f"{prefix}{name}") for name in value})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _decoded(hint: Any, value: Any, place: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [one for one in arguments if one is not type(None)]
        return _decoded(kinds[0], value, place) if len(kinds) == 1 else value
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, place)  # type: ignore[arg-type]
    if origin is list and isinstance(value, list):
        return [_decoded(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return {name: _decoded(arguments[1], item, f"{place}.{name}") for name, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise Malformed(f"'{place}' is not {'a list' if origin is list else 'an object' if origin is dict else 'valid'}")
