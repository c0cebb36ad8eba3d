"""The local Hub as `datasets`, `transformers`, `peft` and `timm` see it, unmodified, in fresh processes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from tests.hub import LocalHub
from tests.hub.client import ask

ROWS = {"text": ["good", "bad"], "label": [1, 0]}
LOGITS = """
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

def logits(model, name, **options):
    tokens = AutoTokenizer.from_pretrained(name, **options)(["a good film"], return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**tokens).logits.tolist()
"""


def parquet(rows: dict[str, list[object]]) -> bytes:
    made = io.BytesIO()
    datasets.Dataset.from_dict(rows).to_parquet(made)
    return made.getvalue()


def picture(colour: int) -> bytes:
    made = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), colour, dtype=np.uint8)).save(made, "PNG")
    return made.getvalue()


def files_of(folder: str | Path) -> dict[str, bytes]:
    """The files in a folder, by their relative paths."""
    root = Path(folder)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


KINDS = {
    "parquet": ({"data/train-00000-of-00001.parquet": parquet(ROWS)}, "good"),
    "csv": ({"train.csv": b"text,label\ngood,1\nbad,0\n", "README.md": b"---\nlicense: mit\n---\n"}, "good"),
    "imagefolder": ({f"train/{name}/{name}.png": picture(colour) for name, colour in (("a", 1), ("b", 200))}, [4, 4]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_data_set_at_a_revision(local_hub: LocalHub, tmp_path: Path, kind: str) -> None:
    """The rows of a tag, although the main branch has others, and those of the main branch."""
    files, first = KINDS[kind]
    repository = local_hub.create("alice/data", type="dataset", private=True, files=files)
    repository.refs["refs/tags/v1"] = repository.commits()[0].id
    removed = dict.fromkeys([path for path in files if path != "README.md"])
    repository.commit(removed, "Remove everything")
    local_hub.commit(repository, {"train.csv": b"text,label\nnew,1\n"})
    program = """
    from datasets import load_dataset
    rows = load_dataset("alice/data", revision="v1")["train"]
    first = rows[0].get("text") or rows[0]["image"].size
    answer([len(rows), first, list(load_dataset("alice/data")["train"]["text"])])
    """
    token = local_hub.token("alice", "read")
    assert ask(local_hub, program, token, tmp_path) == [2, json.loads(json.dumps(first)), ["new"]]
    (tmp_path / "stranger").mkdir()
    program = "from datasets import load_dataset\nanswer(attempt(lambda: load_dataset('alice/data')))"
    assert ask(local_hub, program, None, tmp_path / "stranger") == "DatasetNotFoundError"


def test_a_model_a_pipeline_and_an_adapter(local_hub: LocalHub, tmp_path: Path, text_model: str) -> None:
    """`from_pretrained`, `pipeline` by name alone and `AutoPeftModel` give the logits of what was uploaded."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(text_model, num_labels=2).eval()
    tokens = AutoTokenizer.from_pretrained(text_model)
    model.save_pretrained(tmp_path / "model")
    tokens.save_pretrained(tmp_path / "model")
    with torch.no_grad():
        plain = model(**tokens(["a good film"], return_tensors="pt")).logits
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS"))
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_" in name:
                weights.normal_()
        with_adapter = adapted.eval()(**tokens(["a good film"], return_tensors="pt")).logits
    adapted.save_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "alice/model"}))
    local_hub.create("alice/model", private=True, files=files_of(tmp_path / "model"))
    local_hub.create("alice/adapter", private=True, files=files_of(tmp_path / "adapter"))
    program = (
        LOGITS
        + """
from peft import AutoPeftModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained("alice/model", revision="main")
adapter = AutoPeftModelForSequenceClassification.from_pretrained("alice/adapter")
task = pipeline(model="alice/model")
answer([logits(model, "alice/model"), logits(adapter, "alice/model"), task.task, task("a good film")[0]["score"]])
"""
    )
    found, found_adapter, task, score = ask(local_hub, program, local_hub.token("alice", "read"), tmp_path)
    assert np.allclose(found, plain, atol=1e-6)
    assert np.allclose(found_adapter, with_adapter, atol=1e-6)
    assert not np.allclose(found, found_adapter, atol=1e-3)
    assert task == "text-classification"
    assert score == pytest.approx(torch.softmax(plain, -1).max().item(), abs=1e-5)


def test_timm_reads_its_own_models(local_hub: LocalHub, tmp_path: Path) -> None:
    """`timm.create_model("hf_hub:...")` at a tag gives the logits of the model that was uploaded."""
    import timm
    import torch

    torch.manual_seed(1)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    with torch.no_grad():
        expected = model(torch.ones(1, 3, 64, 64))
    timm.models.save_for_hf(model, tmp_path / "saved", model_config={"num_classes": 3}, safe_serialization=True)
    repository = local_hub.create("alice/timm", files=files_of(tmp_path / "saved"))
    repository.refs["refs/tags/v1"] = repository.commits()[0].id
    program = """
    import timm, torch
    model = timm.create_model("hf_hub:alice/timm@v1", pretrained=True).eval()
    with torch.no_grad():
        answer(model(torch.ones(1, 3, 64, 64)).tolist())
    """
    assert np.allclose(ask(local_hub, program, None, tmp_path), expected, atol=1e-5)
