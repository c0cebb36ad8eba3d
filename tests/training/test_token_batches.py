"""Training batches by tokens: full, alike in number, reproducible, and of similar length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_ft import UserError, finetune
from hf_ft.cli.app import main
from hf_ft.modalities import filled_batches
from hf_ft.training.token_batches import TokenBatches, TokenBatchSampler
from hf_ft.training.trainer import StageTrainer
from tests.support.text_files import write_splits

LENGTHS = np.random.default_rng(3).geometric(0.04, 700) + 4


def shuffled(generator: torch.Generator) -> list[int]:
    return torch.randperm(len(LENGTHS), generator=generator).tolist()


def made(epochs: int = 6, **changes: Any) -> TokenBatches:
    return TokenBatches(LENGTHS, 256, shuffled, seed=5, epochs=epochs, **changes)


def padded(rows: list[int]) -> int:
    return len(rows) * int(LENGTHS[rows].max())


def test_an_epoch_reads_every_text_once_in_full_batches() -> None:
    batches = made()
    for epoch in range(6):
        found = batches.of(epoch)
        assert sorted(row for rows in found for row in rows) == list(range(len(LENGTHS)))
        assert len(found) == len(batches)
        assert all(padded(rows) <= 256 or len(rows) == 1 for rows in found)
        assert max(padded(rows) for rows in found) > 200
        assert max(LENGTHS[found[0]]) == max(LENGTHS)
    assert batches.of(0) == made().of(0) != batches.of(1)
    assert made().of(3) == batches.of(3)  # whatever was asked before: a resumed run begins in the middle
    facts = batches.facts()
    random = [shuffled(torch.Generator().manual_seed(0))[i : i + 9] for i in range(0, 700, 9)]
    assert facts["padding"] < 0.15 < 1 - LENGTHS.sum() / sum(map(padded, random))
    assert facts["texts"] == pytest.approx(700 / len(batches), abs=0.01)


def test_the_count_is_the_largest_of_all_epochs() -> None:
    batches = made()
    counts = [len(batches._cut(epoch)) for epoch in range(6)]
    assert len(set(counts)) > 1, "choose data whose epochs differ, or this shows nothing"
    assert len(batches) == max(counts)
    by_steps = made(epochs=0, steps=3 * len(batches), accumulated=2)
    assert len(by_steps) >= max(counts)


def test_a_text_longer_than_the_batch_is_one() -> None:
    lengths = np.array([5, 300, 4, 4])
    found = [rows.tolist() for rows in filled_batches(lengths, np.array([1, 0, 2, 3]), 10)]
    assert found == [[1], [0, 2], [3]]
    assert list(filled_batches(lengths, np.array([], dtype=np.int64), 10)) == []


def test_indices_hold_the_epoch() -> None:
    """Random transforms of a row depend on it, and workers serve several epochs."""
    batches, epoch = made(), [0]
    sampler = TokenBatchSampler(batches, lambda: epoch[0])
    first = list(sampler)
    epoch[0] = 2
    assert [[index - 1400 for index in rows] for rows in sampler] == batches.of(2)
    assert first == batches.of(0)
    assert len(sampler) == len(first)


@pytest.fixture(scope="module")
def long_and_short(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Opinions of 4 to 60 words."""
    random = np.random.default_rng(1)

    def example(split: str, i: int) -> tuple[str, str]:
        word = ("awful", "lovely")[i % 2]
        return f"{split} {i} " + "so " * int(random.integers(1, 56)) + word, word

    counts = {"train": 60, "validation": 30, "test": 20}
    splits = {split: [example(split, i) for i in range(count)] for split, count in counts.items()}
    return write_splits(tmp_path_factory.mktemp("data") / "lengths", splits)


def test_from_the_command_line(long_and_short: str, text_model: str, tmp_path: Path, quick_proof: None) -> None:
    """Steps follow from the batches, evaluations have the loss of all rows, and a plain pipeline loads the result."""
    from transformers import pipeline

    def run(out: Path, *more: str) -> dict[str, Any]:
        command = ["train", "--task", "text_classification", "--model", text_model, "--dataset", long_and_short]
        command += ["--method", "full", "--num_train_epochs", "2", "--output_dir", str(out), "--seed", "1", *more]
        assert main(command) == 0
        return dict(json.loads((out / "run.json").read_text()))

    record = run(tmp_path / "tokens", "--tokens_per_batch", "300", "--gradient_accumulation_steps", "2")
    stage, batches = record["stages"][0], record["stages"][0]["token_batches"]
    assert batches["tokens"] == 300
    assert 0 <= batches["padding"] < 0.3
    assert stage["steps"] == 2 * -(-batches["batches"] // 2)
    assert "tokens_per_batch 300" in (tmp_path / "tokens/README.md").read_text()
    answers = pipeline("text-classification", str(tmp_path / "tokens"))(["so lovely", "so awful"])
    assert {answer["label"] for answer in answers} <= {"lovely", "awful"}


def test_the_loss_of_an_evaluation_is_that_of_all_rows(long_and_short: str, text_model: str, tmp_path: Path) -> None:
    """Nothing trains at a rate of 1e-30, so batches by tokens and by texts evaluate the same model."""

    def losses(out: str, **settings: Any) -> list[float]:
        found: dict[str, Any] = finetune(
            task="text_classification", model=text_model, dataset=long_and_short, method="full", num_train_epochs=1,
            learning_rate=1e-30, output_dir=str(tmp_path / out), load_back_proof=False, **settings,
        ).record  # fmt: skip
        assert (found["stages"][0]["token_batches"] is None) == ("tokens_per_batch" not in settings)
        return [entry["eval_loss"] for entry in found["stages"][0]["history"] if "eval_loss" in entry]

    expected = losses("texts", per_device_eval_batch_size=30)
    assert losses("tokens", tokens_per_batch=200) == pytest.approx(expected, rel=1e-5)


def test_a_run_by_tokens_resumes_alike(
    long_and_short: str, text_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tensors from a checkpoint within an epoch as without an interruption."""
    common: dict[str, Any] = {
        "task": "text_classification", "model": text_model, "dataset": long_and_short, "method": "full",
        "num_train_epochs": 2, "tokens_per_batch": 300, "save_strategy": "steps", "save_steps": 3,
        "eval_strategy": "no", "load_back_proof": False,
    }  # fmt: skip
    whole = finetune(**common, output_dir=str(tmp_path / "whole")).record
    assert whole["stages"][0]["token_batches"]["batches"] > 4
    step = StageTrainer.training_step

    def interrupted(self: StageTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(StageTrainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finetune(**common, output_dir=str(tmp_path / "resumed"))
    finetune(**common, output_dir=str(tmp_path / "resumed"), resume_from_checkpoint=True)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"per_device_train_batch_size": 8}, "per_device_train_batch_size"),
        ({"train_sampling_strategy": "random"}, "train_sampling_strategy"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
        ({"method": "contrastive"}, "contrastive"),
    ],
)
def test_what_decides_on_batches_too_is_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        finetune(
            task="text_classification", model="some/model", dataset="some/data", output_dir=str(tmp_path / "out"),
            **{"method": "full", "tokens_per_batch": 100} | changes,
        )  # fmt: skip
    assert caught.value.option == "tokens_per_batch"
    assert named in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_images_and_several_processes_are_refused(
    image_data: str, image_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="tokens_per_batch does not go with image_classification"):
        finetune(
            task="image_classification", model=image_model, dataset=image_data, tokens_per_batch=100,
            output_dir=str(tmp_path / "out"),
        )  # fmt: skip
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="for one process"):
        finetune(
            task="text_classification", model="some/model", dataset="some/data", tokens_per_batch=100,
            output_dir=str(tmp_path / "out"),
        )  # fmt: skip
