"""Which architectures `hf-ft export` can export, and why not the others.

python benchmarks/export.py [--output FACTS.jsonl] [--kinds image,timm,sequence,token]
    [--formats onnx,openvino,torch_export] [--only NAME,...] [--sample SHARE] [--seconds 180]

Each architecture of the matrix (`tests/models/test_matrix.py`) is built with tiny random weights, exported from a batch
of three examples, saved, loaded by the runtime alone and compared on single examples, on texts of another length and on
a batch of another size. One that takes longer than `--seconds` counts as failed. FACTS.jsonl (benchmarks/export.jsonl,
which docs/export.md sums up) holds finished attempts: the same command again continues, and prints the table.
`--sample 0.2` takes a fifth of each kind, at random by seed 0.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from select import select
from typing import IO, Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
KINDS = ("image", "timm", "sequence", "token")
FORMATS = ("onnx", "openvino", "torch_export")
TITLES = {
    "image": "image classifiers of transformers",
    "timm": "image classifiers of timm",
    "sequence": "text classifiers",
    "token": "token classifiers",
}
FACTS = ROOT / "benchmarks/export.jsonl"
GOAL = 0.85
"""Least share of architectures in each format."""
CANNOT_BUILD = "cannot be built"


# --- The worker: one process, many architectures ----------------------------------------------------------------------


def attempt(model: Any, inputs: Mapping[str, Any], format_name: str) -> dict[str, Any]:
    """Export one model and compare it; returns what was found."""
    import numpy as np

    from hf_ft.export.graph import CannotExport, export_graph
    from hf_ft.export.parity import TOLERANCE, torch_runtime
    from hf_ft.export.runtimes import load_runtime

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            export_graph(model, {name: value[:3] for name, value in inputs.items()}, format_name).save_pretrained(
                folder
            )
        except CannotExport as reason:
            return {"failed": str(reason), "seconds": time.perf_counter() - start}
        run, reference = load_runtime(Path(folder), format_name, 1), torch_runtime(model)
        largest = 0.0
        for rows, length in ((1, None), (1, 11), (4, None), (2, 13)):
            arrays = {name: value[:rows].numpy() for name, value in inputs.items()}
            if length is not None:  # the end of each text stays, for models that read it
                arrays = {name: x[:, -length:] if x.ndim == 2 else x for name, x in arrays.items()}
            what = f"{rows} example{'s' if rows > 1 else ''}" + (f" of {length} tokens" if length else "")
            wanted = reference(arrays)
            try:
                found = run(arrays)
            except Exception as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                return {"failed": f"runs on no {what}: {lines[0][:200]}", "seconds": time.perf_counter() - start}
            scale = max(1.0, float(np.abs(wanted).max()))
            same_shape = wanted.shape == found.shape
            difference = float(np.abs(wanted - found).max()) / scale if same_shape else float("inf")
            largest = max(largest, difference)
            if not difference <= TOLERANCE:
                return {
                    "failed": f"other logits for {what}: {difference:.2g} of the largest",
                    "seconds": time.perf_counter() - start,
                }
    return {"difference": largest, "seconds": time.perf_counter() - start}


def work() -> None:
    """Answer lines of standard input, each `kind name formats`, by one line of JSON for each format."""
    import torch
    import transformers

    from tests.support.tiny_models import CannotBuild, Subject, batch, build, subjects

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    known: dict[tuple[str, str], Subject] = {(kind, one.name): one for kind in KINDS for one in subjects(kind)}
    answers = sys.stdout
    sys.stdout = sys.stderr  # exporters print what they do
    for line in sys.stdin:
        kind, name, formats = line.split()
        for format_name in formats.split(","):
            try:
                model = build(known[kind, name])  # anew: an export that fails may leave anything behind
                found = attempt(model, batch(model), format_name)
            except CannotBuild as reason:
                found = {CANNOT_BUILD: str(reason)}
            except Exception as error:
                found = {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"}
            print(json.dumps({"kind": kind, "name": name, "format": format_name, **found}), file=answers, flush=True)


class Worker:
    """A process that exports, and is started anew when it hangs or crashes."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def ask(self, kind: str, name: str, format_name: str, seconds: float) -> dict[str, Any]:
        """Return what the process found, or that it crashed or took too long."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--work"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            seconds += 60  # of imports
        asked, answered = self.process.stdin, self.process.stdout
        assert asked is not None
        assert answered is not None
        about = {"kind": kind, "name": name, "format": format_name}
        print(kind, name, format_name, file=asked, flush=True)
        if _readable(answered, seconds) and (line := answered.readline()):
            found: dict[str, Any] = json.loads(line)
            return found
        ended = self.process.poll()
        self.stop()
        why = f"the process ended with {ended}" if ended is not None else f"takes more than {seconds:.0f} s"
        return {**about, "failed": why}

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _readable(stream: IO[str], seconds: float) -> bool:
    return bool(select([stream], [], [], seconds)[0])


# --- The table ----------------------------------------------------------------------------------------------------


def collect(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """What is known, by kind, name and format."""
    found = {}
    with suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8").splitlines():
            fact = json.loads(line)
            found[fact["kind"], fact["name"], fact["format"]] = fact
    return found


def table(facts: Mapping[tuple[str, str, str], Mapping[str, Any]], formats: Sequence[str]) -> str:
    """Counts by kind and format in Markdown, then each failure with its reason."""
    lines = ["| | " + " | ".join(f"`{name}`" for name in formats) + " |", "|---" * (len(formats) + 1) + "|"]
    total: dict[str, list[int]] = {name: [0, 0] for name in formats}
    for kind in KINDS:
        cells = []
        for name in formats:
            tried = [fact for (of, _, how), fact in facts.items() if (of, how) == (kind, name)]
            built = [fact for fact in tried if CANNOT_BUILD not in fact]
            passed = sum("difference" in fact for fact in built)
            total[name][0] += passed
            total[name][1] += len(built)
            cells.append(f"{passed} of {len(built)}" if built else "")
        if any(cells):
            lines.append(f"| {TITLES[kind]} | " + " | ".join(cells) + " |")
    shares = [f"{passed} of {built} ({passed / max(1, built):.0%})" for passed, built in total.values()]
    lines += ["| all | " + " | ".join(shares) + " |", ""]
    differences = [fact["difference"] for fact in facts.values() if "difference" in fact]
    lines += [f"Largest difference of logits, relative to the largest logit: {max(differences, default=0):.1g}.", ""]
    return "\n".join([*lines, *failures(facts)])


def failures(facts: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> Iterator[str]:
    """Each reason with the architectures that have it, those of most architectures first."""
    named: dict[tuple[str, str], list[str]] = {}
    for (kind, name, how), fact in sorted(facts.items()):
        if "failed" in fact:
            named.setdefault((how, _short(fact["failed"])), []).append(f"{kind}-{name}")
    for how, count in Counter(how for how, _ in named).items():
        yield f"{how}: {count} reasons"
        for (of, reason), names in sorted(named.items(), key=lambda pair: -len(pair[1])):
            if of == how:
                yield f"- {', '.join(names)}: {reason}"
        yield ""


def _short(reason: str) -> str:
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", reason).split())
    return text if len(text) <= 160 else f"{text[:160]}..."


def chosen(kinds: Sequence[str], only: Sequence[str] | None, share: float) -> list[tuple[str, str]]:
    """The architectures to try, in an order in which those done so far are a fair sample of all."""
    from tests.support.tiny_models import subjects

    random, found = Random(0), list[tuple[str, str]]()
    for kind in kinds:
        names = [one.name for one in subjects(kind) if only is None or one.name in only]
        random.shuffle(names)
        found += [(kind, name) for name in names[: math.ceil(share * len(names))]]
    random.shuffle(found)
    return found


def main() -> int:
    """Export what is missing, and print the table; 1 if a share is below the goal."""
    if sys.argv[1:] == ["--work"]:
        work()
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=FACTS)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--only", help="names of architectures")
    parser.add_argument("--sample", type=float, default=1.0, help="share of the architectures of each kind")
    parser.add_argument("--seconds", type=float, default=180)
    options = parser.parse_args()
    formats, only = options.formats.split(","), options.only.split(",") if options.only else None
    facts, worker = collect(options.output), Worker()
    wanted = [
        (kind, one, name)
        for kind, one in chosen(options.kinds.split(","), only, options.sample)
        for name in formats
        if (kind, one, name) not in facts
    ]
    try:
        for number, key in enumerate(wanted, start=1):
            if key in facts:
                continue
            fact = worker.ask(*key, options.seconds)
            with options.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(fact) + "\n")
            facts[key] = fact
            state = "ok" if "difference" in fact else fact.get("failed") or fact.get(CANNOT_BUILD)
            print(f"{number}/{len(wanted)} {'-'.join(key)}: {state}", file=sys.stderr, flush=True)
    finally:
        worker.stop()
    print(table(facts, formats))
    shares = []
    for name in formats:
        built = [fact for (_, _, how), fact in facts.items() if how == name and CANNOT_BUILD not in fact]
        shares.append(sum("difference" in fact for fact in built) / max(1, len(built)))
    return 0 if min(shares) >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
