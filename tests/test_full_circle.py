"""Train, publish, and load in a fresh process with an empty cache and without hf_ft: the same logits, for every kind.

Three processes, as three people would have them: one trains from the local Hub and publishes there, one knows nothing
but the id and the libraries of Hugging Face, and one uses `hf_ft.load`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.hub import LocalHub
from tests.support.processes import python

TEXTS = ["a great and lovely film", "Ada Hopper visited Rome ."]

TRAIN = '''
"""Train and publish every case; prints, by case, the logits of the model in memory for fixed inputs."""
import json, sys
import numpy as np, torch
import hf_ft

asked = json.load(sys.stdin)
pixels = torch.as_tensor(np.random.default_rng(0).random((2, 3, 64, 64)), dtype=torch.float32)
found = {}
for name, case in asked["cases"].items():
    result = hf_ft.finetune(**case["settings"], load_back_proof=False, per_device_train_batch_size=8)
    for repository, options in case["repositories"].items():
        hf_ft.push(result.output_dir, repository, **options)
    with torch.no_grad():
        if case["settings"]["task"] == "image_classification":
            side = case.get("side", 32)
            given = {"pixel_values": pixels[..., :side, :side]}
        else:
            given = result.processor(asked["texts"], padding=True, return_tensors="pt")
        found[name] = result.model.cpu()(**given).logits.tolist()
print("\\n" + json.dumps(found))
'''

STRANGER = '''
"""Load every case by its id, without hf_ft, and print the logits for the same inputs."""
import json, sys
sys.modules["hf_ft"] = None  # importing it raises
import numpy as np, torch
import transformers
from transformers import AutoTokenizer, pipeline

asked = json.load(sys.stdin)
pixels = torch.as_tensor(np.random.default_rng(0).random((2, 3, 64, 64)), dtype=torch.float32)

def inputs(case, repository):
    if case["settings"]["task"] == "image_classification":
        side = case.get("side", 32)
        return {"pixel_values": pixels[..., :side, :side]}
    return dict(AutoTokenizer.from_pretrained(repository)(asked["texts"], padding=True, return_tensors="pt"))

def answer(model, given):
    with torch.no_grad():
        return model.eval()(**given).logits.tolist()

found = {name: {} for name in asked["cases"]}
for name, case in asked["cases"].items():
    repository = f"alice/{name}"
    auto = getattr(transformers, case["auto_class"])
    model = auto.from_pretrained(repository)
    given = inputs(case, repository)
    found[name]["from_pretrained"] = answer(model, given)
    if case["settings"]["task"] == "image_classification":
        from PIL import Image
        classify = pipeline("image-classification", model=repository)
        classify(Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)))
        found[name]["pipeline"] = answer(classify.model, given)
    else:
        kind = "token-classification" if "Token" in case["auto_class"] else "text-classification"
        classify = pipeline(kind, model=repository)
        classify(asked["texts"])
        found[name]["pipeline"] = answer(classify.model, given)
    if name.startswith("timm"):
        import timm
        with torch.no_grad():
            wrapped = timm.create_model(f"hf_hub:{repository}", pretrained=True).eval()
            found[name]["timm"] = wrapped(given["pixel_values"]).tolist()
    if name == "lora":
        from peft import AutoPeftModelForSequenceClassification, PeftModel
        base = auto.from_pretrained("alice/base", num_labels=2)
        found[name]["subfolder"] = answer(PeftModel.from_pretrained(base, repository, subfolder="adapter"), given)
        alone = AutoPeftModelForSequenceClassification.from_pretrained("alice/lora-adapter", num_labels=2)
        found[name]["adapter"] = answer(alone, given)
print("\\n" + json.dumps(found))
'''

LOADER = '''
"""Predict for every case by hf_ft.load, with its evaluation's answers beside those of its folder."""
import json, sys
import hf_ft

asked = json.load(sys.stdin)
found = {}
for name, case in asked["cases"].items():
    raw = case.get("raw", asked["texts"])
    by_id, by_folder = hf_ft.load(f"alice/{name}"), hf_ft.load(case["settings"]["output_dir"])
    found[name] = [by_id.predict(raw), by_folder.predict(raw), by_id.threshold == by_folder.threshold]
print("\\n" + json.dumps(found))
'''


@dataclass(frozen=True)
class Circle:
    """What the processes said, and the Hub that they spoke to."""

    hub: LocalHub
    home: Path
    cases: dict[str, dict[str, Any]]
    trained: dict[str, Any]

    def ask(self, program: str, token: str | None, home: str) -> dict[str, Any]:
        """Run a program in a process with an empty cache."""
        asked = json.dumps({"cases": self.cases, "texts": TEXTS})
        return run(program, self.hub.environment(token, self.home / home), asked, self.home)


def run(program: str, environment: dict[str, str], asked: str, folder: Path) -> dict[str, Any]:
    """What a program prints in its last line."""
    root = str(Path(__file__).parents[1])
    environment = {**environment, "PYTHONPATH": root, "HF_FT_CACHE": str(folder / "features")}
    done = python("-c", program, environment=environment, given=asked)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def files(folder: str) -> dict[str, bytes]:
    """The content of a folder, as a repository has it."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def vit(folder: Path) -> Path:
    """A tiny ViT, whose tensors have other names in files than in memory."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def circle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Circle]:
    """Every case, trained from models on the local Hub and published there, privately."""
    home = tmp_path_factory.mktemp("circle")
    data = {
        kind: request.getfixturevalue(f"{kind}_data")
        for kind in ("text", "image", "multi_label", "regression", "token")
    }
    steps = {"max_steps": 4, "learning_rate": 1e-2}

    def text(name: str, kind: str, auto: str = "AutoModelForSequenceClassification", **own: Any) -> dict[str, Any]:
        usual = {"task": "text_classification", "model": "alice/base", "dataset": data[kind], "method": "full", **steps}
        settings = usual | own | {"output_dir": str(home / name)}
        return {"settings": settings, "auto_class": auto, "repositories": {f"alice/{name}": {}}}

    def images(name: str, side: int = 32, **own: Any) -> dict[str, Any]:
        usual = {"task": "image_classification", "dataset": data["image"], "method": "full", **steps}
        raw = [str(path) for path in sorted(Path(data["image"]).glob("test/*/*.png"))[::9]]
        settings = usual | own | {"output_dir": str(home / name)}
        auto = "AutoModelForImageClassification"
        return {
            "settings": settings,
            "auto_class": auto,
            "repositories": {f"alice/{name}": {}},
            "raw": raw,
            "side": side,
        }

    cases = {
        "full": text("full", "text"),
        "calibrated": text("calibrated", "text", calibrate=True),
        "lora": text("lora", "text", method="lora"),
        "several": text("several", "multi_label", calibrate=True),
        "number": text("number", "regression", task="text_regression", label_column="price"),
        "tags": text("tags", "token", "AutoModelForTokenClassification", task="token_classification"),
        "vit": images("vit", model="alice/vit-base", method="last_n:1"),
        "timm": images("timm", 64, model="timm:test_vit", method="scratch", image_size=64),
        "timm-builtin": images("timm-builtin", 64, model="builtin:efficientnet-lite0", method="head"),
    }
    del cases["timm-builtin"]["settings"]["learning_rate"], cases["timm-builtin"]["settings"]["max_steps"]
    cases["lora"]["repositories"]["alice/lora-adapter"] = {"adapter": True}
    with LocalHub() as hub:
        hub.create("alice/base", files=files(request.getfixturevalue("text_model")))
        hub.create("alice/vit-base", files=files(str(vit(home / "vit-base"))))
        environment = hub.environment(hub.token("alice"), home / "trainer")
        asked = json.dumps({"cases": cases, "texts": TEXTS})
        yield Circle(hub, home, cases, run(TRAIN, environment, asked, home))


def test_strangers_get_the_same_logits(circle: Circle) -> None:
    """`from_pretrained`, `pipeline`, `PeftModel`, `AutoPeftModel` and `timm.create_model` by id alone."""
    found = circle.ask(STRANGER, circle.hub.token("alice", role="read"), "stranger")
    assert set(found) == set(circle.trained)
    ways = set()
    for name, answers in found.items():
        expected = np.array(circle.trained[name])
        for way, logits in answers.items():
            ways.add(way)
            assert np.abs(np.array(logits) - expected).max() < 1e-4 * max(1, np.abs(expected).max()), (name, way)
    assert ways == {"from_pretrained", "pipeline", "timm", "subfolder", "adapter"}
    assert set(found["timm"]) == set(found["timm-builtin"]) == {"from_pretrained", "pipeline", "timm"}


def test_private_results_need_the_token(circle: Circle) -> None:
    """What was published without asking is private: without a token there is no such model."""
    assert all(circle.hub.repo(f"alice/{name}").private for name in circle.cases)
    environment = circle.hub.environment(None, circle.home / "nobody")
    program = "import transformers; transformers.AutoConfig.from_pretrained('alice/full')"
    done = python("-c", program, environment=environment)
    assert done.returncode != 0
    assert "alice/full" in done.stderr


def test_hf_ft_predicts_alike_from_id_and_folder(circle: Circle) -> None:
    """`hf_ft.load` with an empty cache answers as for the folder of the run, with its thresholds."""
    found = circle.ask(LOADER, circle.hub.token("alice", role="read"), "loader")
    assert set(found) == set(circle.cases)
    for name, (by_id, by_folder, same_threshold) in found.items():
        assert by_id == by_folder, name
        assert same_threshold
        assert len(by_id) >= 2


def test_nothing_but_safe_files_was_downloaded(circle: Circle) -> None:
    """The cache of `hf_ft.load` has no card, figure or adapter; only what loading takes."""
    snapshots = list((circle.home / "loader/hub").glob("models--alice--*/snapshots/*/*"))
    names = {path.name for path in snapshots}
    assert {"model.safetensors", "config.json", "run.json"} <= names
    assert all(name.endswith((".json", ".safetensors", ".txt", ".gitattributes")) for name in names)
    assert not any(path.is_dir() for path in snapshots)
    assert os.path.isdir(circle.home / "loader/hub")
