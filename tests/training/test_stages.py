"""Stages one after another: settings of their own, adapters in any of them, and logs that go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from hf_ft import UserError, depth_groups, finetune
from hf_ft.cli.app import main
from hf_ft.methods.method_spec import MethodSpec
from hf_ft.records import RunRecord, from_json
from hf_ft.reports.learning_curves import curves
from hf_ft.settings.merge import build
from hf_ft.training import stage_runner as training
from tests.support.scripted_scores import scripted_stages


def run(text_model: str, text_data: str, out: Path, stages: list[dict[str, Any]] | None, **settings: Any) -> Any:
    """The record of a short run with stages of its own; the last state of each is kept."""
    usual = {"max_steps": 9, "per_device_train_batch_size": 8, "eval_strategy": "no", "save_strategy": "no"}
    plan = {"plan": {"stages": stages}} if stages else {}
    return finetune(
        task="text_classification",
        model=text_model,
        dataset=text_data,
        output_dir=str(out),
        **usual | {"load_back_proof": False, "seed": 2, **plan, **settings},
    ).record


def same_logits(out: Path, text_model: str) -> bool:
    """Whether the saved adapter on the original base gives what the saved model gives."""
    merged = AutoModelForSequenceClassification.from_pretrained(out).eval()
    base = AutoModelForSequenceClassification.from_pretrained(text_model, num_labels=2)
    adapted = PeftModel.from_pretrained(base, str(out / "adapter")).eval()
    batch = AutoTokenizer.from_pretrained(out)(["a great film", "dull"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits, expected = adapted(**batch).logits, merged(**batch).logits
    # A head that is solved on a few texts has logits of 50, which merging rounds.
    return bool((logits - expected).abs().max() <= 1e-5 * (1 + 10 * expected.abs().max()))


HEAD = {"name": "head", "trains": "head", "share": 0.3}
ADAPTERS = {"name": "lora", "trains": "all", "peft": "lora"}


def test_adapters_after_the_head_are_saved(text_model: str, text_data: str, tmp_path: Path) -> None:
    """The adapter holds the head as it is in the end, so it gives the result on the original base."""
    record = run(text_model, text_data, tmp_path / "out", [HEAD, ADAPTERS])
    assert [stage["notes"] for stage in record["stages"]] == [[], []]
    assert record["method"] == "plan"
    assert record["settings"]["plan"] == {"stages": [HEAD, ADAPTERS]}
    assert same_logits(tmp_path / "out", text_model)


def test_adapters_on_a_changed_base_are_merged_and_not_saved(text_model: str, text_data: str, tmp_path: Path) -> None:
    """Such an adapter would be wrong on the original base: the run says so and saves the merged model."""
    first = {"name": "top", "trains": "last_n:1", "share": 0.3}
    record = run(text_model, text_data, tmp_path / "out", [first, ADAPTERS])
    assert record["stages"][1]["notes"] == [
        "the adapter is not saved, only the merged model: stage 'top' changed the base model before it"
    ]
    assert not (tmp_path / "out/adapter").exists()
    before, after = load_file(Path(text_model) / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[f"bert.{name}"])}
    assert any("encoder.layer.0." in name for name in changed)
    assert not any("embeddings" in name for name in changed)


def test_two_stages_with_adapters(text_model: str, text_data: str, tmp_path: Path) -> None:
    """The first adapters are merged before the second are attached, and the model stays plain."""
    stages = [ADAPTERS, {"name": "loha", "trains": "last_n:1", "peft": "loha"}, {"name": "rest", "trains": "bitfit"}]
    record = run(text_model, text_data, tmp_path / "out", stages, load_back_proof=True)
    assert record["proofs"]["load_back"]["passed"]
    assert [bool(stage["notes"]) for stage in record["stages"]] == [False, True, False]
    assert not (tmp_path / "out/adapter").exists()  # the first does not give the result any more
    names = set(load_file(tmp_path / "out/model.safetensors"))
    assert names == {f"bert.{name}" for name in load_file(Path(text_model) / "model.safetensors")} | {
        "classifier.weight",
        "classifier.bias",
    }


def test_best_of_all_stages_may_be_one_with_adapters(
    text_model: str, text_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a later stage does worse, the merged model of the adapters comes back, and their adapter with it."""
    scripted_stages(monkeypatch, {"lora": 1.0})
    stages = [ADAPTERS, {"name": "all", "trains": "all", "learning_rate": 0.1}]
    strategy = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    run(text_model, text_data, tmp_path / "out", stages, metric_for_best_model="loss", **strategy)
    assert not (tmp_path / "out/adapter").exists()  # lower is better for the loss, so stage two was kept
    stages[1]["name"] = "lora2"
    run(text_model, text_data, tmp_path / "other", stages, metric_for_best_model="accuracy", **strategy)
    assert same_logits(tmp_path / "other", text_model)


def test_ranks_that_are_settled_in_training_survive_evaluations(
    text_model: str, text_data: str, tmp_path: Path
) -> None:
    """Trap: AdaLoRA's earlier checkpoints have other ranks and do not load; its last state is kept and competes."""
    stages = [{"name": "adalora", "trains": "all", "peft": "adalora", "peft_options": {"target_r": 2}}]
    strategy = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4, "max_steps": 12}
    record = run(text_model, text_data, tmp_path / "out", stages, metric_for_best_model="loss", **strategy)
    (stage,) = record["stages"]
    assert stage["best_metric"] == [entry["eval_loss"] for entry in stage["history"] if "eval_loss" in entry][-1]
    assert same_logits(tmp_path / "out", text_model)


class Recorder(TrainerCallback):
    """What a tracker sees: the step and epoch of the state at each log."""

    seen: ClassVar[list[tuple[int, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Note them."""
        Recorder.seen.append((state.global_step, state.epoch))


def test_trackers_and_curves_go_on_from_stage_to_stage(
    text_model: str, text_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps and epochs never go back, and the picture's axis has a border where each stage begins."""
    monkeypatch.setattr(Recorder, "seen", [])
    make = training._trainer

    def recorded(*args: Any) -> Any:
        trainer = make(*args)
        trainer.add_callback(Recorder)
        return trainer

    monkeypatch.setattr(training, "_trainer", recorded)
    strategy = {"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": -1, "num_train_epochs": 10}
    record = run(text_model, text_data, tmp_path / "out", None, method="gradual", head_solver="sgd", **strategy)
    steps, epochs = zip(*Recorder.seen, strict=True)
    assert list(steps) == sorted(steps)
    assert list(epochs) == sorted(epochs)
    assert steps[-1] == sum(stage["steps"] for stage in record["stages"]) == 50
    assert epochs[-1] == pytest.approx(10)
    points, begins = curves(from_json(RunRecord, record))
    assert [name for _, name in begins] == ["head", "last_1", "last_2", "last_3", "full"]
    assert [begin for begin, _ in begins] == pytest.approx([0, 1, 2, 3, 4])
    assert [x for x, _ in points["eval_loss"]] == pytest.approx(range(1, 11))


def test_stages_have_their_own_schedule_and_warmup(
    text_model: str, text_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stage sets reaches its `TrainingArguments`; what it leaves out is the run's."""
    seen = []
    make = training._trainer

    def recorded(*args: Any) -> Any:
        trainer = make(*args)
        seen.append((trainer.args.lr_scheduler_type.value, trainer.args.warmup_steps, trainer.args.learning_rate))
        return trainer

    monkeypatch.setattr(training, "_trainer", recorded)
    own = {"scheduler": "constant_with_warmup", "warmup": 2, "learning_rate": "1e-3", "head_lr_multiplier": 2}
    run(text_model, text_data, tmp_path / "out", [HEAD | own, {"name": "all", "trains": "all"}], learning_rate=1e-4)
    assert seen == [("constant_with_warmup", 2, 2e-3), ("cosine", 0.1, pytest.approx(1e-3))]


def test_plan_stands_in_a_file_or_in_the_settings(text_model: str, text_data: str, tmp_path: Path) -> None:
    """`--plan FILE` and `plan:` in the file of `--config` mean the same; no path of the file is kept."""
    base = {"task": "text_classification", "model": text_model, "dataset": text_data, "output_dir": str(tmp_path / "o")}
    (tmp_path / "plan.yaml").write_text("stages:\n  - {name: a, trains: 'last_n:2'}\n")
    from_file = build(("", base | {"plan": str(tmp_path / "plan.yaml")})).config
    inline = build(("", base | {"plan": {"stages": [{"name": "a", "trains": "last_n:2"}]}})).config
    assert from_file.method.own_stages == inline.method.own_stages != ()
    assert from_file.plan == inline.plan
    assert str(from_file.method) == from_file.method.definition.name == "plan"
    with pytest.raises(UserError, match=r"method and plan in a call exclude each other"):
        build(("a call", base | {"plan": str(tmp_path / "plan.yaml"), "method": "full"}))
    later = build(("a recipe", base | {"method": "full"}), ("a call", {"plan": str(tmp_path / "plan.yaml")})).config
    assert later.method == inline.method
    back = build(("a recipe", base | {"plan": str(tmp_path / "plan.yaml")}), ("a call", {"method": "full"})).config
    assert (back.plan, back.method) == (None, MethodSpec("full"))


def test_inspect_shows_a_plan_and_parts(text_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each stage is a column, and a part is counted."""
    (tmp_path / "plan.yaml").write_text("stages:\n  - {name: a, trains: head}\n  - {name: b, trains: norms}\n")
    assert main(["inspect", text_model, "--task", "text_classification", "--plan", str(tmp_path / "plan.yaml")]) == 0
    text = capsys.readouterr().out
    assert "plan: a" in text
    assert "train 4 of 16" in text
    model = AutoModelForSequenceClassification.from_pretrained(text_model)
    assert len(depth_groups(model).of_role("block")[0].norms) == 4
