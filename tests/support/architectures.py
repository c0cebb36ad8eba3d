"""Turn what `pytest --matrix` noted into the table of docs/architectures.md, and hold it to the least counts.

Usage: python tests/support/architectures.py FACTS [--write docs/architectures.md]

Exits with 1 when subjects are missing or fewer could be built than the floors say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.support.tiny_models import subjects

FLOORS = {"image": 39, "sequence": 120, "token": 97, "timm": 70}
"""How many architectures of each kind must be built and pass at least."""
MIDDLES = {"image": 36, "sequence": 110, "token": 88, "timm": 70}
"""How many of each kind must at least be split at the middle, so that what is below runs once per example."""
PIPELINES = {"image": 36, "sequence": 118, "token": 96, "timm": 70}
"""How many of each kind must at least train on files by the command line and answer as a plain pipeline."""
SPLITS = 0.75
"""Least share of all depths at which models can be split."""
TITLES = {
    "image": "Image classifiers of transformers",
    "sequence": "Sequence classifiers of transformers",
    "token": "Token classifiers of transformers",
    "timm": "Image classifiers of timm, one of each family",
}


def collect(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What is known of each subject, by kind and name."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            fact = json.loads(line)
            found.setdefault((fact.pop("kind"), fact.pop("name")), {}).update(fact)
    return found


def remarks(fact: Mapping[str, Any]) -> str:
    """What a user of this architecture should know, in a few words each."""
    said = []
    if fact.get("stated") and fact["stated"] != fact["blocks"]:
        said.append(f"configuration states {fact['stated']}")
    if fact.get("padding"):
        said.append("logits depend on padding")
    said += [f"refuses `{method}`" for method in ("last_n", "first_n", "bitfit", "norms", "lora") if fact.get(method)]
    if refused := fact.get("refused"):
        most = max(set(refused.values()), key=list(refused.values()).count)
        said.append(f"not split at {len(refused)}: {most.partition(': ')[2] or most}")
    if fact.get("shared"):
        said.append("shared weights")
    if fact.get("unused"):
        said.append(f"{fact['unused']} tensors unused")
    if fact.get("still"):
        said.append(f"{len(fact['still'])} tensors without gradient")
    if fact.get("checkpointing") is False:
        said.append("no activation checkpointing")
    return ", ".join(said)


def section(kind: str, facts: Mapping[tuple[str, str], Mapping[str, Any]]) -> tuple[str, str, int, int]:
    """The table of one kind, a line with its counts, and how many were found and left out."""
    rows, left = [], []
    for subject in subjects(kind):
        fact = facts.get((kind, subject.name), {})
        if "left_out" in fact:
            left.append(f"- `{subject.name}`: {fact['left_out']}")
        elif "blocks" in fact:
            head = ", ".join(f"`{name}`" for name in fact["head"])
            splits = f"{fact['boundaries'] - len(fact['refused'])}/{fact['boundaries']}"
            rows.append(
                f"| {subject.name} | {fact['blocks']} | {splits} | `{fact['first']}` | {head} | {remarks(fact)} |"
            )
    total = len(subjects(kind))
    counts = f"{len(rows)} of {total} built and tested (at least {FLOORS[kind]}), {len(left)} skipped"
    text = [f"## {TITLES[kind]}", "", f"{counts}.", "", "| name | blocks | splits | first block | head | remarks |"]
    text += ["|---|---|---|---|---|---|", *rows, ""]
    if left:
        text += ["Left out:", "", *left, ""]
    return "\n".join(text), f"{kind:9} {counts}", len(rows), len(left)


def splits(kind: str, facts: Mapping[tuple[str, str], Mapping[str, Any]]) -> tuple[str, bool]:
    """A line that counts where models can be split, and whether that suffices."""
    known = [fact for (of, _), fact in facts.items() if of == kind and "boundaries" in fact]
    head = sum("head" not in fact["refused"] for fact in known)
    middle = sum(bool(fact["middle"]) and fact["middle"] not in fact["refused"] for fact in known)
    depths = sum(fact["boundaries"] for fact in known)
    split = depths - sum(len(fact["refused"]) for fact in known)
    line = (
        f"{kind:9} split before the head {head} of {len(known)}, at the middle {middle} (at least {MIDDLES[kind]}), at "
        f"{split} of {depths} depths"
    )
    return line, middle >= MIDDLES[kind] and split >= SPLITS * depths


def pipelines(kind: str, facts: Mapping[tuple[str, str], Mapping[str, Any]]) -> tuple[list[str], bool]:
    """Lines that count what went from files to a plain pipeline and name what did not, and whether that suffices."""
    known = {name: fact for (of, name), fact in facts.items() if of == kind and "blocks" in fact}
    passed = [fact["pipeline"] for fact in known.values() if "pipeline" in fact]
    counts = f"{kind:9} {len(passed)} of {len(known)} (at least {PIPELINES[kind]})"
    lines = [f"{counts}; scores differ by at most {max(passed, default=0):.1g}"]
    lines += [
        f"{name}: {fact.get('not_from_files', 'FAILED')}" for name, fact in known.items() if "pipeline" not in fact
    ]
    named = all("pipeline" in fact or "not_from_files" in fact for fact in known.values())
    return lines, named and len(passed) >= PIPELINES[kind]


def main() -> int:
    """Print the counts, write the table, and say whether they suffice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("facts", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    facts = collect(options.facts)
    versions = ", ".join(f"{name} {version(name)}" for name in ("transformers", "timm", "torch", "peft"))
    text = [
        "# Architectures",
        "",
        "Generated by `make matrix`; do not edit. Each row is a tiny random model of that architecture that passed:",
        "only the head is new; every tensor is in exactly one depth group; under `head`, `last_n:1`, `full` and",
        "`lora` what trains changes and everything else stays bit-identical; the result loads back by plain",
        "`from_pretrained`; `hf-ft train` on files writes a folder whose plain `pipeline` gives the names and scores",
        "of the run; activation checkpointing gives the same gradients; texts do not depend on their batch; at each",
        "depth in the column splits (about twelve of deeper models), the two parts give the logits and gradients of",
        "the whole model. Blocks are those of the tiny model. `last_n` does not support a model without blocks.",
        "Shared weights belong to the first group that uses them. Tensors without gradient are experts that no token",
        "reached.",
        "",
        f"Versions: {versions}.",
        "",
    ]
    enough = True
    for kind, floor in FLOORS.items():
        table, counts, found, left = section(kind, facts)
        text.append(table)
        missing = len(subjects(kind)) - found - left
        enough = enough and found >= floor and not missing
        print(counts + (f", {missing} MISSING" if missing else "") + ("" if found >= floor else "  TOO FEW"))
        for fact in (line for line in table.splitlines() if line.startswith("- `")):
            print(f"          {fact}")
    text += ["## Splits", "", "Frozen layers run once per example where the model can be split at that depth:", ""]
    for kind in FLOORS:
        line, suffices = splits(kind, facts)
        enough = enough and suffices
        text.append(f"- {line}")
        print(line + ("" if suffices else "  TOO FEW"))
    text += ["", "## From files to a plain pipeline", ""]
    text += [
        "`hf-ft train` on files, and without hf_ft the `pipeline` of the result gives labels and scores of the run:",
        "",
    ]
    for kind in FLOORS:
        (counts_line, *absent), suffices = pipelines(kind, facts)
        enough = enough and suffices
        text += [f"- {counts_line}", *(f"  - {line}" for line in absent)]
        print(f"files to pipeline: {counts_line}" + ("" if suffices else "  TOO FEW"), *absent, sep="\n          ")
    text.append("")
    if options.write:
        options.write.write_text("\n".join(text), encoding="utf-8")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
