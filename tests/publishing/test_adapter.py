"""An adapter as a repository of its own: what is in it, and that plain PEFT puts it on the right base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hub import LocalHub
from tests.publishing.pushing import Pusher
from tests.publishing.test_after_training import trained

LOAD = """
import json, sys
import torch
from peft import AutoPeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

whole = AutoModelForSequenceClassification.from_pretrained("alice/whole").eval()
adapted = AutoPeftModel.from_pretrained("alice/adapter", num_labels=2).eval()
tokenizer = AutoTokenizer.from_pretrained("alice/adapter")
inputs = tokenizer(["a great film", "a dull one"], return_tensors="pt", padding=True)
with torch.no_grad():
    print(json.dumps(float((whole(**inputs).logits - adapted(**inputs).logits).abs().max())))
"""


@pytest.fixture
def base(local_hub: LocalHub, text_model: str) -> str:
    """A base model on the Hub; returns the commit."""
    files = {path.name: path.read_bytes() for path in Path(text_model).iterdir()}
    made = local_hub.create("alice/base", private=True, files=files)
    local_hub.commit(made, {"later.txt": b"x"})
    return [commit.id for commit in made.commits()][1]


def test_the_adapter_alone(base: str, pusher: Pusher, text_data: str, tmp_path: Path) -> None:
    """It names its base by id and commit, holds no model of its own, and gives the logits of the whole model."""
    out = tmp_path / "lora"
    words = ["-m", "hf_ft", "train", "--task=text_classification", "--model=alice/base", f"--model_revision={base}"]
    words += [f"--dataset={text_data}", "--method=lora", "--max_steps=3", f"--output_dir={out}", "--cache=off"]
    done = trained(pusher.hub, [*words, "--load_back_proof=false"], pusher.home, pusher.token)
    assert done.returncode == 0, done.stderr
    pusher.folder = out
    for repo_id, more in (("alice/whole", []), ("alice/adapter", ["--adapter"])):
        code, _, err = pusher(repo_id, *more)
        assert code == 0, err
    files = pusher.hub.repo("alice/adapter").files()
    assert not {"config.json", "model.safetensors"} & {*files}
    assert {"adapter_model.safetensors", "run.json", "tokenizer.json"} <= {*files}
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("alice/base", base)
    code, _, err = pusher("alice/whole", "--adapter")
    assert code == 2
    assert "holds a whole model" in err
    loaded = trained(pusher.hub, ["-c", LOAD], tmp_path / "empty", pusher.token)
    assert loaded.returncode == 0, loaded.stderr
    assert json.loads(loaded.stdout.splitlines()[-1]) < 1e-4
