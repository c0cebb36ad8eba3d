"""What the saved model says to somebody without hf_ft: names, labels, scores and logits, from a plain `pipeline`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    FunnelBaseModel,
    FunnelConfig,
    TimmWrapperConfig,
    pipeline,
)

from hf_ft import Config, UserError, finetune
from hf_ft.cli.app import main
from hf_ft.data.load import load_splits
from hf_ft.evaluation.fresh_process import restored
from hf_ft.evaluation.load_back import LoadBackFailure, verify_load_back
from hf_ft.evaluation.plain_process import encoded_request
from hf_ft.models.model_config import name_outputs
from hf_ft.tasks.registry import get_task, task_names

FLOWERS = ["daisy", "rose", "tulip"]


def timm_folder(folder: Path, names: list[str] | None) -> Path:
    """A tiny timm model as the Hub has them, fine-tuned on `names`; 1,000 classes of ImageNet where there are none."""
    torch.manual_seed(0)
    known = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 1000}
    labels = {"id2label": dict(enumerate(names))} if names else {"num_labels": 1000}
    config = TimmWrapperConfig(architecture="test_resnet", pretrained_cfg=known, **labels)
    transformers.TimmWrapperForImageClassification(config).save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    if names:  # as `timm.models.push_to_hf_hub` writes them beside the names
        settings["label_descriptions"] = {name: f"the flower {name}" for name in names}
    else:
        del settings["label_names"]
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("names", [FLOWERS, FLOWERS[:2], None], ids=["as many", "fewer", "ImageNet"])
def test_trap_timm_keeps_names_in_another_place(image_data: str, tmp_path: Path, names: list[str] | None) -> None:
    """The plain pipeline answers with the names of the data, not with those of the base nor with LABEL_0."""
    base, out = timm_folder(tmp_path / "base", names), tmp_path / "out"
    data = ["--task", "image_classification", "--dataset", image_data, "--max_steps", "1"]
    rest = ["--method", "head", "--load_back_proof", "false", "--output_dir", str(out)]
    assert main(["train", "--model", str(base), *data, *rest]) == 0
    colours = ["blue", "green", "red"]
    saved = json.loads((out / "config.json").read_text())
    assert saved["label_names"] == colours
    assert saved["num_classes"] == 3
    assert "label_descriptions" not in saved
    assert AutoConfig.from_pretrained(out).id2label == dict(enumerate(colours))
    answers = pipeline("image-classification", model=str(out))(f"{image_data}/test/red/0.png")
    assert {answer["label"] for answer in answers} == set(colours)


def test_a_configuration_that_loses_the_names_is_refused() -> None:
    """Whoever loads the result would read other names; BERT's keeps them."""

    class Forgetful(BertConfig):  # type: ignore[misc]
        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
            return super().from_dict(config_dict | {"id2label": {0: "cat", 1: "dog"}}, **kwargs)

    with pytest.raises(UserError, match=r"has cat, dog in place of bad, good"):
        name_outputs(Forgetful(), ["bad", "good"], ["cat", "dog"])
    settings = BertConfig()
    name_outputs(settings, ["bad", "good"], ["LABEL_0", "LABEL_1"])
    assert settings.id2label == {0: "bad", 1: "good"}


# --- The proof ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kinds(
    text_data: str, multi_label_data: str, regression_data: str, token_data: str, image_data: str, tmp_path_factory: Any
) -> dict[str, tuple[str, str, int]]:
    """Kind of raw input and answer -> task, data, number of labels."""
    folder, random = tmp_path_factory.mktemp("kinds"), np.random.default_rng(0)
    pairs = [f"{text} film,{other} thing,{text == other}" for text in ("good", "bad") for other in ("good", "bad")]
    (folder / "pairs.csv").write_text("\n".join(["text,text_pair,label", *pairs * 12]))
    topics, rows = list("abcdefg"), []
    (folder / "images" / "train").mkdir(parents=True)
    for i in range(21):
        image = Image.fromarray(random.integers(0, 255, (24, 24, 3), dtype=np.uint8))
        image.save(folder / "images" / "train" / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "labels": [topics[i % 7], topics[(i + 1 + i // 7) % 7]]}))
    (folder / "images" / "train" / "metadata.jsonl").write_text("\n".join(rows))
    return {
        "text": ("text_classification", text_data, 2),
        "pair": ("text_classification", str(folder / "pairs.csv"), 2),
        "several labels": ("text_classification", multi_label_data, 3),
        "number": ("text_regression", regression_data, 1),
        "words": ("token_classification", token_data, 4),
        "image": ("image_classification", image_data, 3),
        "seven labels of an image": ("image_classification", str(folder / "images"), 7),
    }


KINDS = ("text", "pair", "several labels", "number", "words", "image", "seven labels of an image")


@pytest.mark.usefixtures("quick_proof")
@pytest.mark.parametrize("kind", KINDS)
def test_the_proof_holds_for_every_kind_and_catches_wrong_names(
    kind: str, kinds: dict[str, Any], text_model: str, image_model: str, tmp_path: Path
) -> None:
    """What was compared stands in run.json; the same folder with one name changed does not pass."""
    task, data, count = kinds[kind]
    model = image_model if task == "image_classification" else text_model
    settings = {"task": task, "model": model, "dataset": data, "method": "full", "max_steps": 4}
    record = finetune(**settings, learning_rate=1e-3, output_dir=str(tmp_path / "out")).record
    proof = record["proofs"]["load_back"]
    assert proof["passed"]
    assert proof["pipeline"] == get_task(task).pipeline
    assert 2 <= proof["examples"] <= 8
    assert {"id2label", "labels", "scores"} <= set(proof["compared"])
    assert ("logits" in proof["compared"]) == (kind != "words")
    assert proof["largest_difference"] <= 1e-4 * (3000 if kind == "number" else 1)
    labels = record["data"]["labels"]
    assert len(labels) == count
    if kind in ("several labels", "seven labels of an image"):
        assert f"top_k={count})" in record["usage"]

    loaded = getattr(transformers, record["auto_class"]).from_pretrained(tmp_path / "out")
    reader = transformers.AutoImageProcessor if "image" in task else AutoTokenizer
    processor = reader.from_pretrained(tmp_path / "out")
    config = Config(task=task, model=model, dataset=data)
    again = (loaded, processor, get_task(task), load_splits(config), config)
    verify_load_back(tmp_path / "out", *again)
    saved = json.loads((tmp_path / "out/config.json").read_text())
    saved["id2label"] = {str(i): label for i, label in enumerate(["another", *labels[1:]])}
    saved["label2id"] = {label: int(i) for i, label in saved["id2label"].items()}
    (tmp_path / "out/config.json").write_text(json.dumps(saved))
    with pytest.raises(LoadBackFailure, match=r"calls its outputs .*another"):
        verify_load_back(tmp_path / "out", *again)


@pytest.mark.usefixtures("quick_proof")
def test_a_text_that_the_model_cannot_answer_alone_is_left_out(tmp_path: Path, minilm: str) -> None:
    """Funnel answers very short texts only beside longer ones; the proof takes those that it answers alone."""
    sizes = {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 48, "block_sizes": [1, 1, 1]}
    FunnelBaseModel(FunnelConfig(**sizes, vocab_size=30522)).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path / "model")
    texts = [("fine", "good") if i % 2 else ("a thing of beauty is a joy for ever", "bad") for i in range(20)]
    for split in ("train", "test"):
        rows = "\n".join(["text,label", *(f"{text},{label}" for text, label in texts)])
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}.csv").write_text(rows)
    settings = {"task": "text_classification", "model": str(tmp_path / "model"), "dataset": str(tmp_path / "data")}
    record = finetune(**settings, method="full", max_steps=1, output_dir=str(tmp_path / "out")).record
    assert record["proofs"]["load_back"]["examples"] == 4


def test_every_task_is_among_the_kinds(kinds: dict[str, tuple[str, str, int]]) -> None:
    """A new task joins the proof."""
    assert set(kinds) == set(KINDS)
    assert {task for task, *_ in kinds.values()} == set(task_names())


@pytest.fixture(scope="module")
def text_run(text_model: str, text_data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose own load-back proof passed, in a process of its own."""
    out = tmp_path_factory.mktemp("runs") / "out"
    settings = {"task": "text_classification", "model": text_model, "dataset": text_data, "output_dir": str(out)}
    settings |= {"eval_strategy": "no", "save_strategy": "no"}
    record = finetune(**settings, method="lora", max_steps=12, learning_rate=5e-3).record
    assert record["proofs"]["load_back"]["passed"]
    return out


@pytest.fixture(scope="module")
def trained(text_run: Path, text_data: str) -> tuple[Any, ...]:
    """What the proof compares with: the model of that run, as it was trained."""
    config = Config(task="text_classification", dataset=text_data, model="x")
    model = AutoModelForSequenceClassification.from_pretrained(text_run).eval()
    tokenizer = AutoTokenizer.from_pretrained(text_run)
    return model, tokenizer, get_task("text_classification"), load_splits(config), config


def damaged(folder: Path, target: Path, name: str) -> Path:
    """A copy of a result folder in which one tensor is another."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    weights[name] = weights[name] + torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(0))
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.usefixtures("quick_proof")
@pytest.mark.parametrize("name", ["classifier.weight", "bert.encoder.layer.1.attention.self.query.weight"])
def test_planted_damage_is_caught(text_run: Path, trained: tuple[Any, ...], tmp_path: Path, name: str) -> None:
    """A lost head, or a merge that did not reach the disk, gives other scores in the fresh process."""
    with pytest.raises(LoadBackFailure, match=r"gives other (scores|logits)"):
        verify_load_back(damaged(text_run, tmp_path / "damaged", name), *trained)


@pytest.mark.usefixtures("quick_proof")
def test_damage_behind_certain_answers_is_caught(text_run: Path, trained: tuple[Any, ...], tmp_path: Path) -> None:
    """Where scores are 1 and 0 whatever the weights, the logits still tell."""
    _, *rest = trained
    certain = AutoModelForSequenceClassification.from_pretrained(text_run).eval()
    with torch.no_grad():
        certain.classifier.bias.copy_(torch.tensor([500.0, -500.0]))
    shutil.copytree(text_run, tmp_path / "out")
    certain.save_pretrained(tmp_path / "out")
    verify_load_back(tmp_path / "out", certain, *rest)
    with pytest.raises(LoadBackFailure, match="gives other logits"):
        verify_load_back(damaged(tmp_path / "out", tmp_path / "damaged", "classifier.weight"), certain, *rest)


@pytest.mark.usefixtures("quick_proof")
def test_other_preparation_of_raw_inputs_is_caught(text_run: Path, trained: tuple[Any, ...], tmp_path: Path) -> None:
    """The weights are right, and the tokenizer beside them writes another token for each word."""
    _, *rest = trained
    decided = AutoModelForSequenceClassification.from_pretrained(text_run).eval()
    with torch.no_grad():
        decided.classifier.weight.mul_(100)
    shutil.copytree(text_run, tmp_path / "out")
    decided.save_pretrained(tmp_path / "out")
    verify_load_back(tmp_path / "out", decided, *rest)
    path = tmp_path / "out" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    words = tokenizer["model"]["vocab"]
    words["the"], words["film"] = words["film"], words["the"]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(LoadBackFailure, match=r"gives other (scores|logits)"):
        verify_load_back(tmp_path / "out", decided, *rest)


def test_a_folder_that_does_not_load_is_caught(text_run: Path, trained: tuple[Any, ...], tmp_path: Path) -> None:
    """Without weights there is nothing to load, and the reason is told."""
    shutil.copytree(text_run, tmp_path / "empty")
    (tmp_path / "empty" / "model.safetensors").unlink()
    with pytest.raises(LoadBackFailure, match=r"does not load in a fresh process: .*model\.safetensors"):
        verify_load_back(tmp_path / "empty", *trained)


def test_the_fresh_process_answers_on_after_an_error(
    stranger: Callable[..., dict[str, Any]], text_run: Path, tmp_path: Path
) -> None:
    """One bad folder among many does not end it."""
    request = {"pipeline": "text-classification", "inputs": ["a good film"], "options": {}}
    assert "error" in stranger({**request, "folder": str(tmp_path)})
    assert stranger({**request, "folder": str(text_run)})["names"] == ["negative", "positive"]


def test_load_back_proof_of_a_relative_output_folder(
    text_model: str, text_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--output_dir runs/x` is the usual way to name it."""
    monkeypatch.chdir(tmp_path)
    record = finetune(
        task="text_classification",
        model=text_model,
        dataset=text_data,
        method="head",
        output_dir="runs/x",
        max_steps=1,
    ).record
    assert record["proofs"]["load_back"]["passed"]


def test_predict_refuses_names_that_contradict_the_run(text_run: Path, tmp_path: Path, capsys: Any) -> None:
    """`predict` answers with the names of the model itself; where run.json has others, it says so."""
    assert main(["predict", str(text_run), "a good film"]) == 0
    assert "negative,positive" in capsys.readouterr().out
    shutil.copytree(text_run, tmp_path / "out")
    saved = json.loads((tmp_path / "out/config.json").read_text())
    saved["id2label"] = {"0": "daisy", "1": "tulip"}
    (tmp_path / "out/config.json").write_text(json.dumps(saved))
    assert main(["predict", str(tmp_path / "out"), "a good film"]) == 2
    said = capsys.readouterr().err
    assert "daisy, tulip" in said
    assert "negative, positive" in said


def test_inputs_that_are_arrays_reach_the_fresh_process() -> None:
    """A waveform is the same numbers there, whatever its dtype, and other inputs are left alone."""
    wave = np.linspace(-1, 1, 7, dtype=np.float32)
    sent = json.loads(encoded_request({"inputs": [wave, "a text", {"text": "a", "text_pair": "b"}]}))["inputs"]
    found = [restored(given) for given in sent]
    assert found[0].dtype == np.float32
    assert np.array_equal(found[0], wave)
    assert found[1:] == ["a text", {"text": "a", "text_pair": "b"}]
