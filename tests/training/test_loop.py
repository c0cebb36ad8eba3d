"""Every method on every kind of task, on real files: what must train did, what must not did not, and it loads back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_ft import UserError, finetune
from hf_ft.methods.registry import METHODS
from hf_ft.tasks.registry import task_names

ARGUMENTS = {"last_n": "last_n:1", "first_n": "first_n:1", "peft": "peft:loha", "train": "train:*layer*.1.*"}
KINDS = {
    "image": ("image_classification", "image_model", 18),
    "text": ("text_classification", "text_model", 16),
    "multi_label": ("text_classification", "text_model", 20),
    "regression": ("text_regression", "text_model", 16),
    "token": ("token_classification", "text_model", 16),
}
"""Kind of data (a fixture `<kind>_data`) -> task, fixture of the model, and examples in the test split."""


def settings_for(kind: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Task, model and data of a kind; few steps, so that all of them run in seconds."""
    task, model, _ = KINDS[kind]
    return {
        "task": task,
        "model": request.getfixturevalue(model),
        "dataset": request.getfixturevalue(f"{kind}_data"),
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "seed": 1,
    }


def backbone_names(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[str, str]:
    """Names in the result -> names in the source, whether or not the source has the base model's prefix."""
    prefixes = {name.split(".")[0] for name in after}
    return {
        name: source
        for name in after
        for source in [name, *(name.removeprefix(f"{prefix}.") for prefix in prefixes)]
        if source in before and before[source].shape == after[name].shape
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [name for name in METHODS if name != "auto"])  # which is one of the others
@pytest.mark.usefixtures("quick_proof")
def test_method_trains_what_it_says_and_nothing_else(
    method: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Compare the safetensors on disk before and after, which no code of ours reads."""
    settings = settings_for(kind, request)
    if method == "contrastive" and kind not in ("image", "text"):
        with pytest.raises(UserError, match="one class for each example"):
            finetune(**settings, method=method, output_dir=str(tmp_path / "out"))
        assert not (tmp_path / "out/model.safetensors").exists()
        return
    chosen = ARGUMENTS.get(method, method)
    proof = method in ("head", "lora", "peft", "bitfit")
    # The last state is kept: the best of so few steps may be the first, where nothing has moved yet.
    settings |= {"eval_strategy": "no", "save_strategy": "no"}
    record = finetune(**settings, method=chosen, output_dir=str(tmp_path / "out"), load_back_proof=proof).record
    before, after = (
        load_file(Path(settings["model"]) / "model.safetensors"),
        load_file(tmp_path / "out/model.safetensors"),
    )
    pairs = backbone_names(before, after)
    assert len(pairs) >= 15
    same = {name for name, source in pairs.items() if torch.equal(after[name], before[source])}
    changed = set(pairs) - same
    blocks = [group["name"] for group in record["plan"]["groups"] if group["role"] == "block"]
    if method == "head":
        assert not changed
    elif method == "last_n":
        last = "stages.2.layers.1." if kind == "image" else "layer.2."
        assert changed
        assert all(last in name or "pooler" in name for name in changed)
    elif method == "first_n":
        below = ("embed", "stages.0.") if kind == "image" else ("embed", "layer.0.")
        assert changed
        assert not any(part in name for name in changed for part in below)
    elif method == "train":
        assert changed
        assert all("layer.1." in name or "layers.1." in name for name in changed)
        assert "pooler.dense.weight" not in {pairs[name] for name in changed}
    elif method == "bitfit":
        assert changed
        assert all(name.endswith("bias") for name in changed)
    elif method == "norms":
        assert changed
        assert all("norm" in name.lower() and name.endswith(("weight", "bias")) for name in changed)
    elif method in ("lora", "peft"):
        # Merged weights of linear and convolution layers differ; every BatchNorm and LayerNorm is as it was.
        assert changed
        assert all(name.endswith("weight") and "norm" not in name.lower() for name in changed)
    elif method in ("full", "lp_ft", "gradual", "contrastive"):
        weights = {name for name in pairs if name.endswith(".weight")}
        assert len(weights & changed) >= len(weights) * 0.9
    elif method == "scratch":
        # Random weights replace those of the source model; some begin alike everywhere, such as norms at one.
        weights = {name for name in pairs if name.endswith(".weight") and "norm" not in name.lower()}
        assert weights <= changed
    else:
        raise AssertionError(f"say what {method} may change")
    assert len(blocks) == (4 if kind == "image" else 3)
    assert all(stage["history"] for stage in record["stages"])
    assert {score["n"] for score in record["metrics"]["test"].values()} == {KINDS[kind][2]}
    if proof:
        assert record["proofs"]["load_back"]["largest_difference"] < 1e-4


def test_methods_and_kinds_are_counted() -> None:
    """The matrix above covers what there is: a new method joins it by being in METHODS, a new task needs a kind."""
    assert len(METHODS) >= 12
    assert {task for task, *_ in KINDS.values()} == set(task_names())
    assert len(KINDS) >= len(task_names()) >= 4


def test_result_folder_is_a_plain_model(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """`pipeline` loads the folder and gives the accuracy that run.json states."""
    from datasets import load_dataset
    from transformers import pipeline

    settings = settings_for("image", request)
    record = finetune(**settings | {"max_steps": 30}, method="full", output_dir=str(tmp_path / "out")).record
    classify = pipeline("image-classification", model=str(tmp_path / "out"))
    test = load_dataset("imagefolder", data_files={"test": f"{settings['dataset']}/test/**"}, split="test")
    answers = [classify(row["image"], top_k=1)[0]["label"] for row in test]
    right = [answer == test.features["label"].names[row["label"]] for answer, row in zip(answers, test, strict=True)]
    assert sum(right) / len(right) == pytest.approx(record["metrics"]["test"]["accuracy"]["value"])
    assert record["metrics"]["test"]["accuracy"]["value"] > record["baseline"]["test"]["accuracy"]
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
        "run.json",
        "figures/learning_curves.png",
        "figures/confusion_matrix.png",
        ".local/origin.json",
        ".local/start.json",
        ".local/train_contents.npy",
        ".local/manifest.json",
        ".local/lock",
    }
    assert json.loads((tmp_path / "out/run.json").read_text()) == json.loads(json.dumps(record))


def test_same_seed_same_model_other_seed_another(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The seed covers the head's initialisation, the order of the data and dropout."""
    settings = settings_for("text", request) | {"load_back_proof": False, "method": "full"}
    weights = []
    for i, seed in enumerate((3, 3, 4)):
        finetune(**settings | {"seed": seed}, output_dir=str(tmp_path / str(i)))
        weights.append(load_file(tmp_path / str(i) / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["classifier.weight"], weights[2]["classifier.weight"])
