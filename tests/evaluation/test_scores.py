"""An adapter reloads with its head, and scores belong to the examples in their own order."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_ft import Config, finetune
from hf_ft.evaluation.outputs import predict_outputs, predict_trained
from hf_ft.tasks.registry import get_task


@pytest.fixture(scope="module")
def lora_run(text_model: str, text_data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run whose own load-back proof passed."""
    out = tmp_path_factory.mktemp("runs") / "lora"
    record = finetune(
        task="text_classification",
        model=text_model,
        dataset=text_data,
        method="lora",
        output_dir=str(out),
        max_steps=12,
        learning_rate=5e-3,
        eval_strategy="no",
        save_strategy="no",
    ).record
    assert record["proofs"]["load_back"]["passed"]
    return out


def test_adapter_reloads_with_its_head(lora_run: Path, text_model: str) -> None:
    """Trap: PEFT loses heads. Base model + saved adapter give the logits of the merged model."""
    from peft import PeftModel

    merged = AutoModelForSequenceClassification.from_pretrained(lora_run).eval()
    base = AutoModelForSequenceClassification.from_pretrained(text_model, num_labels=2)
    adapted = PeftModel.from_pretrained(base, lora_run / "adapter").eval()
    batch = AutoTokenizer.from_pretrained(lora_run)(["a great film", "dull and bad"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        assert torch.allclose(merged(**batch).logits, adapted(**batch).logits, atol=1e-5)
    assert (lora_run / "adapter/adapter_model.safetensors").stat().st_size < 200_000


def test_trap_predictions_keep_the_order_of_the_data(lora_run: Path) -> None:
    """Batches of like length would shuffle predictions: texts of very different length, one by one and together."""
    from datasets import Dataset

    config, task = Config(task="text_classification"), get_task("text_classification")
    model = AutoModelForSequenceClassification.from_pretrained(lora_run)
    tokenizer = AutoTokenizer.from_pretrained(lora_run)
    texts = [" ".join(["great" if i % 3 else "bad"] * (1 + 37 * i % 61)) for i in range(50)]
    together = predict_outputs(model, tokenizer, task, Dataset.from_dict({"text": texts}), config)
    spread = np.ptp(together[:, 0])
    assert spread > 1e-4
    for i in (0, 7, 20, 49):
        alone = predict_outputs(model, tokenizer, task, Dataset.from_dict({"text": [texts[i]]}), config)
        assert np.allclose(together[i], alone[0], atol=spread / 100)


def test_scores_do_not_depend_on_the_precision_of_training(image_model: str, image_data: str, tmp_path: Path) -> None:
    """A run in bfloat16 states the accuracy and log loss that the saved model has in float32."""
    record = finetune(
        task="image_classification",
        model=image_model,
        dataset=image_data,
        method="full",
        output_dir=str(tmp_path / "out"),
        max_steps=20,
        bf16=True,
        use_cpu=True,
    ).record
    classify = pipeline("image-classification", model=str(tmp_path / "out"), top_k=None)
    test = load_dataset("imagefolder", data_files={"test": f"{image_data}/test/**"}, split="test")
    losses = []
    for row in test:
        scores = {item["label"]: item["score"] for item in classify(row["image"])}
        losses.append(-np.log(scores[test.features["label"].names[row["label"]]]))
    assert record["metrics"]["test"]["log_loss"]["value"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert json.loads((tmp_path / "out/run.json").read_text())["settings"]["bf16"] is True


def test_scores_do_not_read_features_in_the_precision_of_training(
    text_model: str, text_data: str, tmp_path: Path
) -> None:
    """Validation is cached in bfloat16 when it is scored; its scores are those of the saved model in float32."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for name, source in (("train", "train"), ("validation", "test")):
        shutil.copy(f"{text_data}/{source}.csv", data / f"{name}.csv")
    record = finetune(
        task="text_classification",
        model=text_model,
        dataset=str(data),
        method="last_n:1",
        output_dir=str(out),
        num_train_epochs=2,
        learning_rate=1e-2,
        cache="on",
        bf16=True,
        use_cpu=True,
    ).record
    assert record["stages"][0]["cache"]["computed"] == 56
    assert record["precision"] == {"compute": "bfloat16", "tf32": False, "explicit": True, "note": ""}
    classify = pipeline("text-classification", model=str(out), top_k=None)
    rows = list(csv.DictReader((data / "validation.csv").open(encoding="utf-8")))
    found = classify([row["text"] for row in rows])
    answers = [{item["label"]: item["score"] for item in scores} for scores in found]
    expected = np.mean([-np.log(answer[row["label"]]) for answer, row in zip(answers, rows, strict=True)])
    assert record["metrics"]["validation"]["log_loss"]["value"] == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the examples that run through the first block while a run is scored."""
    from transformers.models.bert.modeling_bert import BertLayer

    import hf_ft.evaluation

    counted, plain, score = {"scoring": 0}, BertLayer.forward, hf_ft.evaluation.score
    watched: list[Any] = []

    def forward(self: Any, states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        counted["scoring"] += len(states) if self in watched else 0
        return plain(self, states, *args, **kwargs)

    def scored(run: Any, *more: Any) -> Any:
        counted["scoring"], watched[:] = 0, [run.model.bert.encoder.layer[0]]
        results = score(run, *more)
        watched.clear()
        live = predict_outputs(run.model, run.processor, run.task, run.splits.validation, run.config, run.args)
        assert np.allclose(predict_trained(run, run.splits.validation), live, atol=1e-5)
        return results

    monkeypatch.setattr(BertLayer, "forward", forward)
    monkeypatch.setattr("hf_ft.evaluation.score", scored)
    return counted


@pytest.mark.parametrize(
    ("method", "settings", "live"),
    [
        ("head", {}, False),
        ("last_n:1", {}, False),
        ("head", {"cache_dtype": "float16"}, True),  # scores are those of the model in float32
        ("head", {"cache": "off"}, True),
        ("full", {}, True),
    ],
)
def test_final_scores_read_cached_features(
    method: str,
    settings: dict[str, str],
    live: bool,
    passes: dict[str, int],
    text_model: str,
    text_data: str,
    tmp_path: Path,
) -> None:
    """No example runs through frozen layers again, test ones once per cache, and scores are those of the model."""
    found = []
    for name in ("first",) if live else ("first", "again"):
        record = finetune(
            task="text_classification",
            model=text_model,
            dataset=text_data,
            method=method,
            num_train_epochs=2,
            output_dir=str(tmp_path / name),
            cache_dir=str(tmp_path / "cache"),
            load_back_proof=False,
            **settings,
        ).record
        found.append((passes["scoring"], record))
    sizes = record["data"]["sizes"]
    if live:
        assert found[0][0] >= sizes["validation"] + sizes["test"]
    else:
        assert found[0][0] <= sizes["test"]  # once per cache; validation and probes add nothing
        assert found[1][0] == 0
        assert found[0][1]["metrics"] == found[1][1]["metrics"]
    assert (record["head_input"] is not None) == (method == "head")
    assert sum(record["phases"].values()) > record["stages"][0]["seconds"] > 0
