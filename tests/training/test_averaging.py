"""Averages of weights: what is averaged, that interrupted runs end alike, and what cannot be averaged."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_ft import UserError, finetune
from hf_ft.cli.app import main
from hf_ft.settings.merge import build
from hf_ft.training import checkpoint_soup, checkpoints
from hf_ft.training import stage_runner as training
from hf_ft.training.weight_average import FILE, WeightAverage, decay_of, trained_tensors, warmed_up
from tests.support.scripted_scores import scripted_losses

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "head by sgd": ("text", {"method": "head", "head_solver": "sgd", "cache": "off"}),
    "full": ("text", {"method": "full"}),
    "lora": ("text", {"method": "lora"}),
    "cached last_n": ("text", {"method": "last_n:1", "cache": "on"}),
    "BatchNorm": ("image", {"method": "full", "augment": "none"}),
}


def words(case: str, request: pytest.FixtureRequest, out: Path, **settings: Any) -> list[str]:
    """The command line of a case: two epochs, checkpoints and evaluations after every third step."""
    kind, own = CASES[case]
    data = {"model": request.getfixturevalue(f"{kind}_model"), "dataset": request.getfixturevalue(f"{kind}_data")}
    usual = {"task": f"{kind}_classification", **data, "num_train_epochs": 2, "per_device_train_batch_size": 8}
    usual |= {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3, "seed": 3}
    usual |= {"metric_for_best_model": "loss", "disable_tqdm": "true", "load_back_proof": "false", "output_dir": out}
    return ["train", *(f"--{name}={value}" for name, value in (usual | own | settings).items())]


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End the process during a step, as the system would."""

    class Ending(training.Lines):  # type: ignore[name-defined]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step - 1:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training, "Lines", Ending)


def tensors(out: Path) -> dict[str, torch.Tensor]:
    """The tensors of a result."""
    return load_file(out / "model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two results are the same to the bit."""
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


# --- EMA --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_ema_resumes_and_loads_back(
    case: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_proof: None
) -> None:
    """An interrupted run ends with the same tensors, which the plain `pipeline` loads, and which are averages."""
    assert main(words(case, request, tmp_path / "whole", ema=0.9, load_back_proof="true")) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8)
        assert main(words(case, request, tmp_path / "out", ema=0.9)) == 143
    (newest,) = (tmp_path / "out/checkpoints").glob("*/checkpoint-8")
    sealed = json.loads((newest / checkpoints.SEAL).read_text())
    assert FILE in sealed["files"], "a checkpoint without the plain weights is incomplete"
    assert main([*words(case, request, tmp_path / "out", ema=0.9), "--resume"]) == 0
    record = json.loads((tmp_path / "whole/run.json").read_text())
    assert record["proofs"]["load_back"]["passed"]
    assert 0 < record["stages"][0]["ema"] < 1
    assert record["stages"][0]["frozen_checked"] == record["proofs"]["frozen"]["tensors"][0]
    assert equal(tensors(tmp_path / "whole"), tensors(tmp_path / "out"))


class States(TrainerCallback):
    """Remembers the trainable weights after each step."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.states.append({name: p.detach().clone() for name, p in kwargs["model"].named_parameters()})


def test_ema_is_the_average_of_all_steps(text_model: str, text_data: str, tmp_path: Path) -> None:
    """The result is the formula applied to the weights after each step; those are what training without it has."""
    settings: dict[str, Any] = {"task": "text_classification", "model": text_model, "dataset": text_data, "seed": 1}
    settings |= {"method": "full", "max_steps": 6, "per_device_train_batch_size": 8, "load_back_proof": False}
    settings |= {"eval_strategy": "no", "save_strategy": "no"}
    with_ema, without = States(), States()
    result = finetune(**settings, output_dir=str(tmp_path / "ema"), ema=0.7, callbacks=[with_ema])
    finetune(**settings, output_dir=str(tmp_path / "plain"), callbacks=[without])
    assert len(with_ema.states) == len(without.states) == 6
    assert all(equal(one, other) for one, other in zip(with_ema.states, without.states, strict=True))
    expected = {name: value.double() for name, value in with_ema.states[0].items()}
    for updates, state in enumerate(with_ema.states[1:], start=1):
        decay = min(0.7, 1 - (1 + updates) ** (-2 / 3))
        expected = {name: decay * value + (1 - decay) * state[name].double() for name, value in expected.items()}
    found = dict(result.model.named_parameters())
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, atol=1e-6, rtol=1e-5)
    assert not equal({name: p.detach() for name, p in found.items()}, with_ema.states[-1])


def test_decay() -> None:
    """It rises to its highest value; `auto` reaches back over a tenth of the steps."""
    decays = [warmed_up(0.99, updates) for updates in range(2000)]
    assert decays == sorted(decays)
    assert (decays[0], decays[-1]) == (0, 0.99)
    assert decay_of(0.5, 1000) == 0.5
    assert decay_of("auto", 1000) == pytest.approx(0.99)
    assert decay_of("auto", 3) == 0
    assert decay_of("auto", 10**9) == 0.9999


def test_average_holds_what_trains_alone() -> None:
    """Frozen parameters and statistics of layers in evaluation mode are not in it, and leaving a block restores all."""
    layer = torch.nn.Linear(2, 2)
    model = torch.nn.Sequential(layer, torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2))
    layer.weight.requires_grad_(False)
    found = trained_tensors(model, [model[2]])
    assert set(found) == {"0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "2.weight", "2.bias"}
    average = WeightAverage(found, 0.5)
    average.update()
    with torch.no_grad():
        layer.bias.add_(1)
    average.update()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with average.in_place(), average.in_place():
        torch.testing.assert_close(before["0.bias"] - layer.bias, torch.full((2,), 1 - 2 ** (-2 / 3)))
    assert equal(before, model.state_dict())


# --- Soup -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tried", "used"),
    [((1.0, 0.9), [6, 9, 3]), ((1.1, 0.9), [6, 3]), ((1.1, 1.1), [6])],
    ids=["all", "some", "the best alone"],
)
def test_soup_is_greedy(
    tried: tuple[float, ...],
    used: list[int],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checkpoints join from the best to the worst unless the loss rises; the result is the average of their weights."""
    during, keep = (3.0, 1.0, 2.0, 9.0), tmp_path / "kept"
    load = checkpoint_soup._load
    weights: dict[int, dict[str, torch.Tensor]] = {}

    def remembered(trainer: Any, folder: Any) -> None:
        load(trainer, folder)
        state = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        weights.setdefault(int(Path(folder).name.removeprefix("checkpoint-")), state)

    monkeypatch.setattr(checkpoint_soup, "_load", remembered)
    scripted_losses(monkeypatch, *during, *tried)
    assert main(words("full", request, keep, soup=3)) == 0
    record = json.loads((keep / "run.json").read_text())["stages"][0]
    assert record["soup"]["candidates"] == [6, 9, 3]
    assert record["soup"]["used"] == used
    assert record["soup"]["scores"] == [1.0, *tried]
    assert record["best_metric"] == record["soup"]["score"] == min(1.0, *tried)
    result = tensors(keep)
    for name, value in result.items():
        expected = torch.stack([weights[step][name].double() for step in used]).mean(0)
        torch.testing.assert_close(value.double(), expected, atol=1e-7, rtol=1e-6)
    if used == [6]:
        assert equal(result, weights[6])


def test_soup_with_batch_norm_after_a_kill(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_proof: None
) -> None:
    """Statistics are those of the training data under the averaged weights; killed in the middle, it ends alike."""
    during, tried = (3.0, 1.0, 2.0, 9.0), (0.5, 0.4)
    scripted_losses(monkeypatch, *during, *tried, *during, *tried)
    assert main(words("BatchNorm", request, tmp_path / "whole", soup=3, load_back_proof="true")) == 0
    record = json.loads((tmp_path / "whole/run.json").read_text())
    assert record["proofs"]["load_back"]["passed"]
    assert len(record["stages"][0]["soup"]["used"]) == 3

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_soup, "_mix", interrupted)
        assert main(words("BatchNorm", request, tmp_path / "out", soup=3)) == 130
    left = sorted(path.name for path in (tmp_path / "out/checkpoints/1-full").glob("checkpoint-*"))
    assert len(left) >= 3
    assert main([*words("BatchNorm", request, tmp_path / "out", soup=3), "--resume"]) == 0
    assert equal(tensors(tmp_path / "whole"), tensors(tmp_path / "out"))


# --- Bad input --------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"method": "head", "ema": 0.9}, "ema", "closed form"),
    ({"method": "head", "soup": 2}, "soup", "closed form"),
    ({"method": "head", "ema": 0.9, "head_solver": "exact", "learning_rate": 1.0}, "ema", "closed form"),
    ({"method": "peft:adalora", "ema": 0.9}, "ema", "ranks"),
    ({"method": "contrastive", "ema": 0.9}, "ema", "last state"),
    ({"method": "contrastive", "soup": 2}, "soup", "last state"),
    ({"method": "contrastive", "early_stopping_patience": 2}, "early_stopping_patience", "last state"),
    ({"method": "full", "soup": 3, "save_strategy": "no"}, "soup", "checkpoints"),
    ({"method": "full", "soup": 3, "load_best_model_at_end": False}, "soup", "checkpoints"),
    ({"method": "full", "soup": 3, "save_total_limit": 2}, "save_total_limit", "fewer"),
    ({"method": "full", "soup": 1}, "soup", "at least 2"),
    ({"method": "full", "ema": 1.0}, "ema", "less than 1"),
    ({"method": "full", "ema": "always"}, "ema", "auto"),
    ({"method": "scratch", "batch_norm": "eval"}, "batch_norm", "random"),
]


@pytest.mark.parametrize(("change", "option", "said"), REFUSED, ids=str)
def test_what_cannot_be_averaged(change: dict[str, Any], option: str, said: str, tmp_path: Path) -> None:
    """One error before torch is imported, which names the option."""
    layer = {"task": "image_classification", "model": "org/model", "dataset": "org/data", "output_dir": str(tmp_path)}
    with pytest.raises(UserError) as caught:
        build(("here", layer | change))
    assert caught.value.option == option
    assert said in str(caught.value)


def test_averages_that_are_accepted(tmp_path: Path) -> None:
    """A head by steps, `lp_ft` whose later stage trains by steps, and limits that leave enough."""
    layer = {"task": "image_classification", "model": "org/model", "dataset": "org/data", "output_dir": str(tmp_path)}
    for change in (
        {"method": "head", "ema": 0.9, "head_solver": "sgd"},
        {"method": "head", "soup": 2, "learning_rate": 0.1},
        {"method": "lp_ft", "ema": "auto", "soup": 5},
        {"method": "full", "soup": 3, "save_total_limit": 3},
    ):
        build(("here", layer | change))


@pytest.mark.parametrize(
    ("settings", "option", "said"),
    [
        ({"method": "full", "num_train_epochs": 1, "soup": 3}, "soup", "1 evaluation"),
        ({"plan": {"stages": [{"name": "only", "trains": "head"}]}, "ema": 0.9}, "ema", "closed form"),
        ({"method": "full", "batch_norm": "eval"}, "batch_norm", "no BatchNorm"),
    ],
    ids=str,
)
def test_what_only_data_and_model_show(
    settings: dict[str, Any], option: str, said: str, text_model: str, text_data: str, tmp_path: Path
) -> None:
    """One evaluation is one checkpoint; nothing is written before the error."""
    usual = {"task": "text_classification", "model": text_model, "dataset": text_data}
    with pytest.raises(UserError) as caught:
        finetune(**usual, **settings, output_dir=str(tmp_path / "out"))
    assert caught.value.option == option
    assert said in str(caught.value)
    assert not (tmp_path / "out/checkpoints").exists()


def test_comparisons_skip_averages_for_a_solved_head() -> None:
    """`--ema` is meant for the other methods of a comparison."""
    from hf_ft.experiments.comparison_settings import applicable_layers

    taken: Callable[[str], set[str]] = lambda method: set(applicable_layers([("", {"ema": 0.9})], method)[0][1])  # noqa: E731
    assert taken("head") == set()
    assert taken("full") == {"ema"}
