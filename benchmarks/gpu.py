"""One script for a bare GPU machine: training beside a plain Trainer, then the tests that need a GPU, in 8 minutes.

    python benchmarks/gpu_wheels.py WHEELS                          # with network, same Python and system
    python benchmarks/gpu.py --wheels WHEELS --output gpu.json      # on the GPU machine

The machine needs no network, and of packages PyTorch, torchvision, transformers, timm, peft, accelerate and
scikit-learn. What else hf_ft needs is installed from the wheels of a folder into a temporary one. ViT-B/16, ResNet-50
and BERT-base have random weights, images and texts are made up: for time, not for accuracy. Both sides have the same
files, flags and frozen layers; on a GPU both train in bfloat16. Every run is written to `--output` when it ends, so
that a cut-off loses none. `--device cpu --tiny` does the same in seconds with tiny models.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
MODELS = {"vit": "ViT-B/16", "resnet": "ResNet-50", "bert": "BERT-base"}
METHODS = ("full", "head", "last_n:2", "lora")
WORDS = [f"word{number}" for number in range(30517)]
"""With five special tokens as many as the vocabulary of BERT-base has."""
TESTS_NEED = 100
"""Seconds that are kept for the tests."""


def main() -> None:
    """Measure until the time is up, then test."""
    started = time.monotonic()
    options = parse()
    with tempfile.TemporaryDirectory(prefix="hf-ft-gpu-") as folder:
        environment = with_wheels(options.wheels, Path(folder, "site-packages"))
        os.environ.update(environment, HF_HUB_OFFLINE="1", HF_HOME=str(Path(folder, "huggingface")))
        report = Report(options)
        until = started + 60 * options.minutes
        keep = TESTS_NEED if options.device == "cuda" else 0
        measure(options, Path(folder), report, until - keep)
        print(report.tables(), flush=True)
        if options.device == "cuda":
            report.write(tests=run_tests(until - time.monotonic() - 5))


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", dest="models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    parser.add_argument("--method", dest="methods", nargs="+", default=list(METHODS))
    parser.add_argument("--wheels", type=Path, help="folder of wheels with the packages that the machine lacks")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models and a few examples")
    parser.add_argument("--images", type=int, default=1024, help="training images (default: 1024)")
    parser.add_argument("--texts", type=int, default=4096, help="training texts (default: 4096)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=8.0, help="of the whole script, tests included (default: 8)")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    if options.tiny:
        options.images, options.texts, options.epochs, options.batch = 16, 16, 1, 8
    return options


def with_wheels(wheels: Path | None, target: Path) -> dict[str, str]:
    """Install what the machine lacks from wheels; returns the environment of processes that find it."""
    if wheels is not None:
        missing = [wheel for wheel in sorted(wheels.glob("*.whl")) if not installed(wheel.name.split("-")[0])]
        if missing:
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(target)]
            subprocess.run([*command, *map(str, missing)], check=True)
            importlib.invalidate_caches()
    paths = [str(ROOT), str(target), *filter(None, [os.environ.get("PYTHONPATH")])]
    sys.path[1:1] = [str(ROOT)]
    sys.path.append(str(target))  # what the machine has comes first
    return {"PYTHONPATH": os.pathsep.join(paths)}


def installed(package: str) -> bool:
    """Whether a package is there in any version."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


# --- The report -----------------------------------------------------------------------------------------------------


class Report:
    """The runs so far, written to a file after each of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.runs, self.more = options, list[dict[str, Any]](), dict[str, Any]()

    def add(self, run: dict[str, Any]) -> None:
        """Keep a run."""
        self.runs.append(run)
        print(json.dumps(run), file=sys.stderr, flush=True)
        self.write()

    def write(self, **more: Any) -> None:
        """Write everything; a file that is cut off never replaces a whole one."""
        from hf_ft.environment import machine, versions

        self.more |= more
        options = {name: value for name, value in vars(self.options).items() if name not in ("wheels", "output")}
        record = {"machine": machine(), "versions": versions(), "options": options, "runs": self.runs, **self.more}
        begun = self.options.output.with_suffix(".part")
        begun.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        begun.replace(self.options.output)

    def tables(self) -> str:
        """A Markdown table for each model, with one row for each side of each method."""
        found = []
        for model in dict.fromkeys(run["model"] for run in self.runs):
            what = "texts" if model == MODELS["bert"] else "images"
            rows = [["method", "side", "seconds", f"{what} a second", "plain / hf_ft", "GPU idle", "peak MiB"]]
            rows += [["---", "---", "---:", "---:", "---:", "---:", "---:"]]
            mine = [run for run in self.runs if run["model"] == model]
            for method in dict.fromkeys(run["method"] for run in mine):
                rows += self._rows({run["side"]: run for run in mine if run["method"] == method})
            found.append(f"**{model}**\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows))
        return "\n\n".join(found) + "\n"

    def _rows(self, sides: Mapping[str, dict[str, Any]]) -> Iterator[list[str]]:
        for side, run in sides.items():
            ratio = ""
            if side == "hf_ft" and "plain" in sides:
                ratio = f"{sides['plain']['seconds'] / run['seconds']:.2f}"
            idle = "" if run["idle"] is None else f"{100 * run['idle']:.0f} %"
            peak = f"{run['peak'] / 2**20:,.0f}" if run["peak"] else ""
            yield [run["method"], side, f"{run['seconds']:.2f}", f"{run['rate']:,.0f}", ratio, idle, peak]


# --- Measurements ---------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """A model and its data: what both sides are asked for."""

    name: str
    request: dict[str, Any]
    examples: int


@dataclass
class Timing:
    """The seconds of a training, and when it began and ended by `time.perf_counter`."""

    seconds: float
    began: float
    ended: float


def measure(options: argparse.Namespace, folder: Path, report: Report, until: float) -> None:
    """Train every model with every method on both sides, while there is time for a pair like the longest so far."""
    longest = 0.0
    jobs = [prepare(options, folder, name) for name in options.models]
    for job in jobs:
        warm_up(job)
    for method in options.methods:
        for job in jobs:
            if time.monotonic() + longest > until:
                print(f"{job.name}, {method}: left out, the time is up", file=sys.stderr, flush=True)
                continue
            began = time.monotonic()
            for side, train in (("plain", train_plain), ("hf_ft", train_hf_ft)):
                report.add({"model": job.name, "method": method, "side": side, **run(job, method, train)})
            longest = max(longest, time.monotonic() - began)


def run(job: Job, method: str, train: Callable[[Job, str], Timing]) -> dict[str, Any]:
    """One run: seconds, examples a second, idle share and peak memory."""
    import torch

    cuda = job.request["device"] == "cuda"
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as scratch, utilisation(cuda) as shares:
        job.request["scratch"] = scratch
        timing = train(job, method)
    peak = int(torch.cuda.max_memory_allocated()) if cuda else 0
    busy = [share for when, share in shares if timing.began <= when <= timing.ended]
    idle = round(1 - sum(busy) / len(busy) / 100, 3) if busy else None
    rate = job.examples * job.request["num_train_epochs"] / timing.seconds
    return {"seconds": round(timing.seconds, 3), "rate": round(rate, 1), "idle": idle, "peak": peak}


@contextmanager
def utilisation(cuda: bool) -> Iterator[list[tuple[float, float]]]:
    """Ten times a second: when, and the share of time in percent in which a kernel ran; empty without nvidia-smi."""
    shares: list[tuple[float, float]] = []
    if not cuda or shutil.which("nvidia-smi") is None:
        yield shares
        return

    def read(lines: IO[str]) -> None:
        shares.extend((time.perf_counter(), float(line)) for line in lines if line.strip().isdigit())

    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        reader = threading.Thread(target=read, args=(watch.stdout,), daemon=True)
        reader.start()
        try:
            yield shares
        finally:
            watch.terminate()
            reader.join(timeout=5)


def planned(request: Mapping[str, Any], method: str) -> tuple[Any, ...]:
    """What `hf_ft.train` takes for a method: model, processor, splits, plan, settings, arguments, load report."""
    from variants import hf_ft_settings, training_settings

    import hf_ft

    settings = hf_ft_settings(request, method) | {"cache_dir": str(Path(request["scratch"], "cache"))}
    config, args = hf_ft.parse(settings, training_settings(request), [])
    splits = hf_ft.load_splits(config, args.seed)
    model, processor, loaded = hf_ft.load_model(config, splits.labels, splits.problem_type, args.seed)
    plan = hf_ft.make_plan(config, args, loaded.groups, len(splits.train))
    return model, processor, splits, plan, config, args, loaded


def train_hf_ft(job: Job, method: str) -> Timing:
    """The seconds of all stages, with the building of the cache, without evaluation."""
    from variants import training_seconds

    import hf_ft

    parts = planned(job.request, method)
    began = time.perf_counter()
    with redirect_stdout(sys.stderr):
        trained = hf_ft.train(*parts)
    return Timing(sum(training_seconds(stage) for stage in trained.stages), began, time.perf_counter())


def train_plain(job: Job, method: str, steps: int = -1) -> Timing:
    """The seconds of a plain `Trainer` that trains the same parameters, or PEFT's adapters on the same layers."""
    from transformers import Trainer, TrainingArguments
    from variants import encode_plain, load_plain, plain_collator, training_settings

    from hf_ft.models import adapters

    request = job.request
    model, processor = load_plain(request)
    stage = planned(request, method)[3].stages[0]
    if stage.peft:
        model = adapters.attach(model, stage, stage.peft, stage.peft_options)
    else:
        trainable = set(stage.trained_parameters)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name in trainable
    images = request["task"] == "image_classification"
    args = TrainingArguments(**training_settings(request), max_steps=steps, remove_unused_columns=not images)
    rows = encode_plain(request, processor, "train")
    began = time.perf_counter()
    trainer = Trainer(model, args, plain_collator(request, processor), rows, processing_class=processor)
    trainer.train()
    ended = time.perf_counter()
    return Timing(ended - began, began, ended)


def warm_up(job: Job) -> None:
    """Load the kernels of a model by a few steps that do not count."""
    with tempfile.TemporaryDirectory() as scratch:
        job.request["scratch"] = scratch
        train_plain(job, "full", 2)


# --- Models and data ------------------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace, folder: Path, name: str) -> Job:
    """Write a model with random weights and the data that it trains on."""
    import hf_ft

    images = name != "bert"
    data, model = folder / ("images" if images else "texts"), folder / name
    if not data.exists():
        write_images(data, options.images, 32 if options.tiny else 256) if images else write_texts(data, options.texts)
    write_model(model, name, options.tiny)
    request: dict[str, Any] = {
        "task": "image_classification" if images else "text_classification",
        "model": str(model),
        "folder": str(model),
        "dataset": str(data),
        "data": str(folder / f"encoded-{data.name}"),
        "labels": 4,
        "seed": 0,
        "max_train_examples": None,
        "max_eval_examples": None,
        "num_train_epochs": options.epochs,
        "per_device_train_batch_size": options.batch,
        "device": options.device,
        "plan": {"learning_rate": 1e-4},
        "scratch": str(folder / "scratch"),
    }
    if not Path(request["data"]).exists():
        from variants import hf_ft_settings

        config, args = hf_ft.parse(hf_ft_settings(request, "head"), {"output_dir": request["scratch"], "seed": 0}, [])
        hf_ft.load_splits(config, args.seed).train.save_to_disk(str(Path(request["data"], "train")))
    return Job(MODELS[name], request, options.images if images else options.texts)


def write_images(folder: Path, count: int, size: int) -> None:
    """JPEG files of four classes: smooth noise, so that they are as large as photos."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for split, many in (("train", count), ("validation", 16)):
        for number in range(many):
            place = folder / split / f"class{number % 4}" / f"{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(place, quality=90)


def write_texts(folder: Path, count: int) -> None:
    """Texts of 10 to 100 words in four classes, as JSON lines."""
    import numpy as np

    random = np.random.default_rng(0)
    folder.mkdir()
    for split, many in (("train", count), ("validation", 16)):
        rows = [
            {"text": " ".join(random.choice(WORDS, random.integers(10, 101))), "label": f"class{number % 4}"}
            for number in range(many)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def write_model(folder: Path, name: str, tiny: bool) -> None:
    """Save a base model with random weights and its processor, as they stand on the Hub."""
    import torch
    from transformers import (
        BertConfig,
        BertModel,
        BertTokenizer,
        ResNetConfig,
        ResNetModel,
        ViTConfig,
        ViTImageProcessor,
        ViTModel,
    )

    torch.manual_seed(0)
    narrow: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    narrow |= {"intermediate_size": 64}
    size = 32 if tiny else 224
    model: Any
    if name == "bert":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        folder.mkdir()
        (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]), encoding="utf-8")
        BertTokenizer.from_pretrained(folder).save_pretrained(folder)
        model = BertModel(BertConfig(**(narrow if tiny else {})))
    elif name == "vit":
        model = ViTModel(ViTConfig(image_size=size, **(narrow | {"patch_size": 8} if tiny else {})))
    else:
        small: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
        model = ResNetModel(ResNetConfig(**(small if tiny else {})))
    model.save_pretrained(folder)
    if name != "bert":
        ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)


# --- Tests ----------------------------------------------------------------------------------------------------------


def run_tests(seconds: float) -> dict[str, Any]:
    """Run the tests that need a GPU, in the time that is left; what they printed by then comes back in any case."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/test_gpu.py"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        try:
            ended = subprocess.run(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, timeout=max(1.0, seconds))
            code: int | None = ended.returncode
        except subprocess.TimeoutExpired:
            code = None
        said.seek(0)
        tail = said.read()[-6000:]
    print(f"tests: {'cut off' if code is None else f'exit code {code}'}\n\n{tail}", flush=True)
    return {"exit_code": code, "tail": tail}


if __name__ == "__main__":
    main()
