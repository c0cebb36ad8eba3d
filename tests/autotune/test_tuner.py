"""A decision is made once for a model, shape and machine, remembered, and only made where it pays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hf_ft.autotune import USUAL, Autotuner, Variant, Work, tuner
from hf_ft.autotune.trial import Trial

LAST = Variant("channels_last")


class Trials:
    """Stands in for trials, and counts them."""

    def __init__(self, best: Variant | None = LAST) -> None:
        self.best, self.count = best, 0

    def __call__(self, *_: Any) -> Trial | None:
        self.count += 1
        return None if self.best is None else Trial(self.best, {USUAL: 2.0, LAST: 1.0}, {LAST: 1e-7}, 0.5)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    """Trials in which channels last is twice as fast."""
    found = Trials()
    monkeypatch.setattr(tuner, "try_variants", found)
    return found


def work(what: str = "training", width: int = 8, pixels: int = 8, **changes: Any) -> Work:
    """The training of a small network on many examples."""
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, 4, 3), nn.Flatten())

    def batch(size: int) -> Mapping[str, Any]:
        return {"pixel_values": torch.zeros(size, 3, pixels, pixels)}

    cpu = torch.device("cpu")
    return dataclasses.replace(
        Work(what, model, batch, lambda inputs: [model(inputs["pixel_values"])], 10_000, 16, cpu), **changes
    )


def test_a_decision_is_made_once_and_remembered(trials: Trials, tmp_path: Path) -> None:
    """The second time it is read, printed as such, and costs nothing; a short run then uses it, too."""
    lines: list[str] = []
    first = Autotuner(tmp_path, lines.append)
    assert first.choose(work()) == first.choose(work()) == LAST
    assert [(one.what, one.gain, one.source, one.seconds) for one in first.choices] == [("training", 2, "tried", 0.5)]
    assert first.choices[0].ms_per_example == {"the usual form": 500.0, "channels last": 250.0}
    second = Autotuner(tmp_path, lines.append)
    assert second.choose(work(examples=4)) == LAST
    assert [(one.gain, one.source, one.seconds) for one in second.choices] == [(2, "remembered", 0.0)]
    assert trials.count == 1
    assert [line.count("channels last, 2.00 times as fast") for line in lines] == [1, 1]


@pytest.mark.parametrize(
    "other",
    [{"width": 9}, {"pixels": 9}, {"what": "prediction"}, {"precision": "bfloat16"}, {"batch_size": 2}],
    ids=str,
)
def test_another_step_is_another_decision(other: dict[str, Any], trials: Trials, tmp_path: Path) -> None:
    """Another model, shape, kind of pass or precision is tried by itself; features and predictions share theirs."""
    one = Autotuner(tmp_path, print)
    one.choose(work())
    one.choose(work(**other))
    assert trials.count == 2
    frozen = work()
    frozen.model.requires_grad_(False)
    one.choose(frozen)
    assert trials.count == 3
    one.choose(work("features", width=3)), one.choose(work("prediction", width=3))
    assert trials.count == 4


def test_another_machine_decides_anew(trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder may be shared by machines."""
    Autotuner(tmp_path, print).choose(work())
    monkeypatch.setattr(tuner, "_machine", lambda _: {"device": "another"})
    Autotuner(tmp_path, print).choose(work())
    assert trials.count == 2


def test_a_short_run_is_not_tried(trials: Trials, tmp_path: Path) -> None:
    """Nothing is run, read or written for it: not even a batch is made."""

    def batch(size: int) -> Mapping[str, Any]:
        raise AssertionError

    one = Autotuner(tmp_path / "new", print)
    assert one.choose(work(examples=239, batch=batch)) == USUAL
    assert (trials.count, one.choices) == (0, [])
    assert not (tmp_path / "new").exists()
    assert one.choose(work(examples=240)) == LAST


def test_a_trial_that_decides_nothing_is_not_remembered(trials: Trials, tmp_path: Path) -> None:
    """The run goes on in the usual form, and the next one may try."""
    trials.best = None
    one = Autotuner(tmp_path, print)
    assert one.choose(work()) == USUAL
    assert one.choices == []
    trials.best = LAST
    assert one.choose(work()) == LAST


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 0, "decisions": {}}', '{"format": 1, "decisions": 3}'])
def test_a_broken_file_is_written_anew(content: str, trials: Trials, tmp_path: Path) -> None:
    """It only means that decisions are made again."""
    (tmp_path / "autotune.json").write_text(content)
    assert Autotuner(tmp_path, print).choose(work()) == LAST
    assert Autotuner(tmp_path, print).choose(work()) == LAST
    assert trials.count == 1


def test_a_broken_decision_is_made_anew(trials: Trials, tmp_path: Path) -> None:
    """One of another version, or for a form that there is not, does not stop the others from being read."""
    first = Autotuner(tmp_path, print)
    first.choose(work()), first.choose(work(width=9))
    kept = first.decisions.read()
    for broken in (
        {"what": "training", "memory_format": "spiral"},
        {"speed": 3},
        None,
        {**kept[min(kept)], "gain": "x"},
    ):
        first.decisions.remember(min(kept), broken)  # type: ignore[arg-type]
        first.choose(work()), first.choose(work(width=9))
    assert trials.count == 6


def test_a_folder_that_cannot_be_written_stops_nothing(trials: Trials, tmp_path: Path) -> None:
    """The decision then holds for this run alone."""
    (tmp_path / "file").write_text("")
    assert Autotuner(tmp_path / "file", print).choose(work()) == LAST
    assert Autotuner(tmp_path / "file", print).choose(work()) == LAST
    assert trials.count == 2


def test_what_a_run_began_with_is_kept(trials: Trials, tmp_path: Path) -> None:
    """Pinned variants win over what is remembered since; what is not pinned is decided."""
    Autotuner(tmp_path, print).choose(work())
    one = Autotuner(tmp_path, print, {"training": {}})
    assert one.choose(work()) == USUAL
    assert one.choices == []
    other = Autotuner(tmp_path, print, {"training": {"memory_format": "channels_last"}})
    assert other.choose(work(width=9)) == LAST
    assert [choice.source for choice in other.choices] == ["resumed"]
    assert other.choose(work("prediction")) == LAST
    assert trials.count == 2
