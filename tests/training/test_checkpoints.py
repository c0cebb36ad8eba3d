"""Checkpoints: the best one is what is kept, whatever `save_pretrained` calls its weights, and resuming finds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_ft import finetune
from hf_ft.data.load import load_splits
from hf_ft.evaluation.scores import score
from hf_ft.models.load import load_model
from hf_ft.results import saving as hub
from hf_ft.settings.merge import build
from hf_ft.storage import output_folder
from hf_ft.training import loop
from hf_ft.training import stage_runner as training
from hf_ft.training.loop import train
from hf_ft.training.planning import make_plan
from hf_ft.training.run import Run
from tests.support.scripted_scores import scripted_stages


@pytest.fixture(scope="module")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny ViT, whose blocks have other names on disk than in the model."""
    folder = tmp_path_factory.mktemp("models") / "tiny-vit"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(**sizes, image_size=32, patch_size=16)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def trained(**settings: Any) -> Run:
    """Train without saving a result, so that the checkpoints stay."""
    found = build(("the test", {"task": "image_classification", "seed": 1, **settings}))
    config, args = found.config, found.arguments()
    splits = load_splits(config, args.seed)
    model, processor, loaded = load_model(config, splits.labels, splits.problem_type, args.seed)
    plan = make_plan(config, args, loaded.groups, len(splits.train))
    return train(model, processor, splits, plan, config, args, loaded)


def same_as_checkpoint(run: Run, stage: int) -> bool:
    """Whether the model has the weights of a stage's best checkpoint, as `from_pretrained` reads them."""
    folder = run.output_dir / str(run.stages[stage].checkpoint)
    best = type(run.model).from_pretrained(folder).state_dict()
    assert len(best) == 40
    return all(torch.equal(value, best[name]) for name, value in run.model.state_dict().items())


def test_trap_best_checkpoint_of_renamed_weights(
    tiny_vit: str, image_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model that is kept is the best checkpoint, blocks included, and not its head on the last one's blocks."""
    evaluate, losses = training.StageTrainer.evaluate, iter((2.0, 1.0, 3.0, 4.0))
    monkeypatch.setattr(
        training.StageTrainer,
        "evaluate",
        lambda trainer, *args, **kwargs: evaluate(trainer, *args, **kwargs) | {"eval_loss": next(losses)},
    )
    settings = {"model": tiny_vit, "dataset": image_data, "output_dir": tmp_path / "out", "method": "full"}
    run = trained(
        **settings, metric_for_best_model="loss", max_steps=4, eval_steps=1, eval_strategy="steps", save_total_limit=4
    )
    assert run.stages[0].checkpoint == "checkpoints/1-full/checkpoint-2"
    assert same_as_checkpoint(run, 0)
    last = type(run.model).from_pretrained(run.output_dir / "checkpoints/1-full/checkpoint-4").state_dict()
    assert sum(not torch.equal(value, last[name]) for name, value in run.model.state_dict().items()) > 30


def test_trap_best_stage_of_renamed_weights(
    tiny_vit: str, image_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the second stage did worse, the model goes back to the best checkpoint of the first."""
    scripted_stages(monkeypatch, {"full": 1.0})
    out = tmp_path / "out"
    settings = {"model": tiny_vit, "dataset": image_data, "output_dir": out, "method": "lp_ft", "max_steps": 4}
    run = trained(**settings, metric_for_best_model="loss")
    assert same_as_checkpoint(run, 0)
    assert not same_as_checkpoint(run, 1)


@pytest.mark.parametrize("given", [{"eval_strategy": "epoch"}, {"save_strategy": "epoch"}, {}])
def test_one_strategy_alone_keeps_the_best(
    given: dict[str, str], image_model: str, image_data: str, tmp_path: Path
) -> None:
    """Whichever of evaluation and saving is set, the other follows, so that there is a best checkpoint."""
    settings = {"model": image_model, "dataset": image_data, "method": "head", "num_train_epochs": 2}
    run = trained(**settings, output_dir=tmp_path / "out", **given)
    assert run.stages[0].checkpoint
    assert run.stages[0].best_metric is not None


def test_stage_without_a_checkpoint_is_repeated(
    text_model: str, text_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in its second stage, a run that saved nothing starts again instead of failing."""
    settings = {"task": "text_classification", "model": text_model, "dataset": text_data, "method": "lp_ft"}
    settings |= {"output_dir": str(tmp_path / "out"), "max_steps": 4, "eval_strategy": "no", "save_strategy": "no"}
    settings |= {"load_back_proof": False, "head_solver": "sgd"}
    run_stage = loop.run_stage

    def interrupted(run: Run, number: int, *rest: Any) -> None:
        if number == 2:
            raise KeyboardInterrupt
        run_stage(run, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run_stage", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finetune(**settings)
    record = finetune(**settings, resume_from_checkpoint=True).record
    assert [stage["steps"] for stage in record["stages"]] == [1, 3]
    assert len(load_file(tmp_path / "out/model.safetensors")) > 40


def test_a_recipe_that_fails_lets_go_of_its_folder(
    text_model: str, text_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever training or saving ends: in a notebook the same process may go on with the folder."""
    settings = {"task": "text_classification", "model": text_model, "dataset": text_data, "method": "full"}
    settings |= {"output_dir": str(tmp_path / "out"), "max_steps": 1, "load_back_proof": False}

    def failing(*_: Any) -> None:
        assert output_folder.is_held(tmp_path / "out")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_keep_best", failing)
        with pytest.raises(KeyboardInterrupt):
            trained(**settings)
    assert not output_folder.is_held(tmp_path / "out")
    run = trained(**settings, overwrite_output_dir=True)
    monkeypatch.setattr(hub, "_write", failing)
    with pytest.raises(KeyboardInterrupt):
        hub.save(run, score(run))
    assert not output_folder.is_held(tmp_path / "out")
