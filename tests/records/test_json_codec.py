"""Dataclasses to JSON and back: nothing is lost, and what does not fit names its place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from hf_ft.records.json_codec import Malformed, from_json, to_json


@dataclass
class Inner:
    name: str
    value: float = 0.0


@dataclass
class Outer:
    count: int
    inner: Inner | None
    listed: list[Inner] = field(default_factory=list)
    named: dict[str, list[int]] = field(default_factory=dict)
    free: Any = None


FULL = Outer(3, Inner("a", 0.5), [Inner("b"), Inner("c", 2.0)], {"x": [1, 2]}, {"any": [None]})


def test_round_trip() -> None:
    assert from_json(Outer, json.loads(json.dumps(to_json(FULL)))) == FULL
    assert from_json(Outer, {"count": 1, "inner": None}) == Outer(1, None)


def test_whole_numbers_are_floats_where_floats_belong() -> None:
    assert from_json(Inner, {"name": "a", "value": 2}) == Inner("a", 2.0)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"inner": None}, "'count' is missing"),
        ({"count": 1, "inner": None, "extra": 2}, "'extra' is unknown"),
        ({"count": "1", "inner": None}, "'count' is not valid"),
        ({"count": True, "inner": None}, "'count' is not valid"),
        ({"count": 1, "inner": {"value": 1.0}}, r"'inner\.name' is missing"),
        ({"count": 1, "inner": None, "listed": [{"name": "a"}, {"name": 3}]}, r"'listed\[1\]\.name' is not valid"),
        ({"count": 1, "inner": None, "named": {"x": 1}}, r"'named\.x' is not a list"),
        ([], "'Outer' is not an object"),
    ],
)
def test_what_does_not_fit_is_named(value: Any, place: str) -> None:
    with pytest.raises(Malformed, match=place):
        from_json(Outer, value)
