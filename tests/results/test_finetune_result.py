"""What a fine-tuning returns: scores, model and processor at hand, a table to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_ft import FinetuneResult, finetune


@pytest.fixture(scope="module")
def result(text_model: str, text_data: str, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    """A short run on texts."""
    settings: dict[str, Any] = {"max_steps": 2, "method": "full", "load_back_proof": False}
    out = tmp_path_factory.mktemp("result") / "<out>"
    return finetune(task="text_classification", model=text_model, dataset=text_data, output_dir=out, **settings)


def test_everything_is_at_hand(result: FinetuneResult) -> None:
    """The model answers, the scores are those of the record, and the paths exist."""
    with torch.no_grad():
        logits = result.model(**result.processor("a lovely film", return_tensors="pt")).logits
    assert logits.shape == (1, len(result.labels))
    assert result.metrics["test"]["accuracy"] == result.record["metrics"]["test"]["accuracy"]["value"]
    assert result.card.is_file()
    assert result.figures
    assert result.adapter is None


def test_a_model_is_loaded_when_it_is_asked_for(result: FinetuneResult) -> None:
    """A result of an earlier process, as `--resume` of a finished run returns it, gives the same answers."""
    again = FinetuneResult(result.record, result.output_dir)
    inputs = result.processor("a lovely film", return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(again.model(**inputs).logits, result.model(**inputs).logits, atol=1e-6)
    assert again.processor("a film")["input_ids"] == result.processor("a film")["input_ids"]


def test_it_reads_as_a_table(result: FinetuneResult) -> None:
    """A row for each metric, a column for each split; HTML is escaped."""
    text, page = repr(result), result._repr_html_()
    assert len(text.splitlines()) == len(result.metrics["test"]) + 4
    assert f"{result.metrics['test']['accuracy']:.4f}" in text
    assert page.count("<tr>") == len(result.metrics["test"]) + 1
    assert "<out>" in text
    assert "&lt;out&gt;" in page


def test_the_folder_of_a_finished_run_is_read_again(result: FinetuneResult, text_model: str, text_data: str) -> None:
    """Nothing is trained; the result has the same record."""
    settings: dict[str, Any] = {"max_steps": 2, "method": "full", "load_back_proof": False}
    settings |= {"output_dir": str(result.output_dir), "resume_from_checkpoint": True}
    again = finetune(task="text_classification", model=text_model, dataset=text_data, **settings)
    assert again.record["metrics"] == result.record["metrics"]
    assert Path(again.output_dir) == result.output_dir
