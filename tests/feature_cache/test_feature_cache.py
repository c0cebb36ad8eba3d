"""The feature cache in somebody's own `Trainer`: the same weights as with `freeze` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from hf_ft import FeatureCache, UserError, depth_groups, freeze
from hf_ft.feature_cache.feature_cache import usual_loss
from hf_ft.modalities.image_transforms import ImageTransform

Subject = tuple[Any, Any, Any, Any]


@pytest.fixture
def texts(text_model: str, text_data: str) -> Subject:
    """Model, tokenizer, rows for the cache, and the same for a plain `Trainer`; no dropout, so that runs compare."""
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    set_seed(0)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = AutoModelForSequenceClassification.from_pretrained(text_model, num_labels=2, **still)
    rows = load_dataset("csv", data_files=str(Path(text_data) / "train.csv"), split="train").class_encode_column(
        "label"
    )
    rows = rows.map(lambda batch: tokenizer(batch["text"]), batched=True, remove_columns=["text"])
    rows = rows.rename_column("label", "labels")
    return model, tokenizer, rows, rows


@pytest.fixture
def photos(image_model: str, image_data: str) -> Subject:
    """The same for images, with a model that has BatchNorm."""
    processor = AutoImageProcessor.from_pretrained(image_model)
    set_seed(0)
    model = AutoModelForImageClassification.from_pretrained(image_model, num_labels=3, ignore_mismatched_sizes=True)
    rows = load_dataset("imagefolder", data_dir=image_data, split="train").rename_column("label", "labels")
    return model, processor, rows, rows.with_transform(ImageTransform(processor, "none"))


def arguments(folder: Path) -> TrainingArguments:
    """Three epochs of a plain `Trainer`."""
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=3,
        per_device_train_batch_size=7,
        learning_rate=1e-2,
        remove_unused_columns=False,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        seed=0,
    )


@pytest.mark.parametrize("method", ["head", "last_n:1"])
@pytest.mark.parametrize("kind", ["texts", "photos"])
def test_trains_as_without_it(kind: str, method: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The weights of the same `Trainer` on the whole model with `freeze`; what is frozen is as before."""
    model, processor, rows, plain_rows = request.getfixturevalue(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    args = arguments(tmp_path / "own")
    with FeatureCache(
        model, method, rows, rows, processor=processor, args=args, cache_dir=str(tmp_path / "cache")
    ) as cached:
        trainer = Trainer(
            model=cached.model,
            args=args,
            train_dataset=cached.train,
            eval_dataset=cached.validation,
            data_collator=cached.collator,
            compute_loss_func=cached.loss,
        )
        trainer.train()
        ours = trainer.evaluate()["eval_loss"]
    assert cached.facts["computed"] == len(rows)
    after = {name: value.clone() for name, value in model.state_dict().items()}
    collator = DataCollatorWithPadding(processor) if kind == "texts" else default_data_collator
    assert model(**collator([plain_rows[0]])).logits.shape[0] == 1  # whole again

    model.load_state_dict(before)
    freeze(model, method)
    whole = Trainer(
        model=model,
        args=arguments(tmp_path / "plain"),
        train_dataset=plain_rows,
        eval_dataset=plain_rows,
        data_collator=collator,
        compute_loss_func=usual_loss,
    )
    whole.train()
    assert whole.evaluate()["eval_loss"] == pytest.approx(ours, abs=1e-4)
    expected = model.state_dict()
    assert max(float((after[name].float() - expected[name].float()).abs().max()) for name in after) < 1e-4
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    above = {name for group in depth_groups(model) if group.role == "head" for name in group.parameters}
    assert above <= moved
    assert (moved == above) == (method == "head")


def test_as_the_readme_shows_it(text_model: str, text_data: str, tmp_path: Path) -> None:
    """Settings of `Trainer` by default, rows that still hold their texts: it trains what `freeze` leaves."""
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    model = AutoModelForSequenceClassification.from_pretrained(text_model, num_labels=2)
    rows = load_dataset("csv", data_files=str(Path(text_data) / "train.csv"), split="train")
    rows = rows.class_encode_column("label").rename_column("label", "labels")
    rows = rows.map(lambda batch: tokenizer(batch["text"]), batched=True)
    assert "text" in rows.column_names
    before = {name: value.clone() for name, value in model.state_dict().items()}
    args = TrainingArguments(output_dir=str(tmp_path / "own"), num_train_epochs=2, report_to=[], use_cpu=True)
    assert args.remove_unused_columns
    with FeatureCache(model, "last_n:1", rows, processor=tokenizer, args=args, cache_dir=str(tmp_path / "c")) as cached:
        sides = {"model": cached.model, "train_dataset": cached.train, "data_collator": cached.collator}
        Trainer(args=args, compute_loss_func=cached.loss, **sides).train()
    assert cached.facts["computed"] == len(rows)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    top = {
        name for group in depth_groups(model) if group.name in ("block 2", "neck", "head") for name in group.parameters
    }
    assert moved == top


def test_rows_that_cannot_be_read_are_told(texts: Subject, tmp_path: Path) -> None:
    """No labels, or nothing that the model takes: one line with the remedy."""
    model, tokenizer, rows, _ = texts
    settings = {"processor": tokenizer, "args": arguments(tmp_path), "cache_dir": str(tmp_path)}
    with pytest.raises(UserError, match=r"needs a column 'labels'.*rename_column"):
        FeatureCache(model, "head", rows.rename_column("labels", "label"), **settings)
    raw = rows.select_columns(["labels"]).add_column("text", ["a film"] * len(rows))
    with pytest.raises(UserError, match=r"input_ids.*these have labels, text"):
        FeatureCache(model, "head", raw, **settings)


def test_what_is_not_fixed_is_refused(texts: Subject, tmp_path: Path) -> None:
    """Where nothing is frozen, or adapters are asked for, there is one error and no cache."""
    model, tokenizer, rows, _ = texts
    for method, message in (("full", "nothing below"), ("lora", "attaches no adapters")):
        with pytest.raises(UserError, match=message):
            FeatureCache(model, method, rows, processor=tokenizer, args=arguments(tmp_path), cache_dir=str(tmp_path))


def test_usual_losses() -> None:
    """Classes, tags with holes, several labels, numbers; sums over accumulated batches are divided by all items."""
    from types import SimpleNamespace

    logits = torch.randn(6, 3)
    answer = SimpleNamespace(logits=logits)
    classes, several = torch.tensor([0, 1, 2, 0, 1, 2]), torch.randint(0, 2, (6, 3)).float()
    assert usual_loss(answer, classes) == pytest.approx(torch.nn.functional.cross_entropy(logits, classes).item())
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, several)
    assert usual_loss(answer, several) == pytest.approx(expected.item())
    numbers = SimpleNamespace(logits=torch.randn(6, 1))
    assert usual_loss(numbers, torch.zeros(6)) == pytest.approx(float((numbers.logits**2).mean()))
    tags = torch.tensor([[0, -100, 2], [1, 1, -100]])
    words = SimpleNamespace(logits=torch.randn(2, 3, 3))
    expected = torch.nn.functional.cross_entropy(words.logits.flatten(0, 1), tags.flatten())
    assert usual_loss(words, tags) == pytest.approx(expected.item())
    assert usual_loss(answer, classes, 12) == pytest.approx(usual_loss(answer, classes).item() / 2)
