"""`hf-ft depth` against training at every depth, with the cache and without: its cost, and the loss of its choice.

python benchmarks/depth.py --task T --model M --dataset D --output_dir OUT [settings of hf-ft train]

The search sees validation only. Every depth is then trained at its own length with the same seeds and scored on test;
regret is the best test mean minus that of the choice, with its interval over test examples and seeds. What is finished
is not repeated.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_ft.cli.app import run
from hf_ft.errors import UserError
from hf_ft.experiments.depth_settings import DepthSettings, freeze_depths, read_depth_settings
from hf_ft.records import FreezeDepthRecord
from hf_ft.settings.parse import Command, command_line

OPTIONS = {
    "depths": ("N,M,...", "numbers of frozen blocks (default: as hf-ft depth)"),
    "seeds": ("N", "how many seeds, or which (default: 3)"),
}
USAGE = "--task T --model M --dataset D --output_dir OUT [options]"


def sweep(asked: DepthSettings, folder: Path, cache: Mapping[str, Any]) -> dict[str, Any]:
    """Train every depth with every seed at its own length; scores, draws of the test score and seconds by depth."""
    from hf_ft.experiments.training_experiment import TrainingExperiment
    from hf_ft.experiments.trials import Trial
    from hf_ft.records import ComparisonRecord

    experiment = TrainingExperiment([*asked.layers, ("the benchmark", cache)], folder, ComparisonRecord)
    found: dict[str, Any] = {
        "sign": 1 if experiment.higher_is_better else -1,
        "blocks": experiment.blocks,
        "depths": {},
    }
    for frozen, method in freeze_depths(asked.depths, experiment.blocks).items():
        trials = [Trial(method, seed) for seed in asked.seeds]
        results = [experiment.run(trial, others=len(trials) - i) for i, trial in enumerate(trials, start=1)]
        if wrong := [result.error for result in results if result.error]:
            raise RuntimeError(f"{method}: {wrong[0]}")
        found["depths"][frozen] = {
            "method": method,
            "values": [result.score(experiment.split, experiment.metric) for result in results],
            "draws": [experiment.draws(trial) for trial in trials],
            "seconds": sum(result.seconds for result in results),
        }
        print(f"{folder.name:7} {frozen:2} frozen  {found['depths'][frozen]['values']}", flush=True)
    return found


def choices(record: FreezeDepthRecord, blocks: int, depths: list[int]) -> dict[str, int]:
    """What is compared: the search, other ways to choose from what it saw, and two habits; by frozen blocks."""
    choice, probe = record.choice, record.layer_probes.scores
    assert choice is not None
    sign = 1 if record.higher_is_better else -1
    named = {"hf-ft depth": choice.frozen}
    named["the same, more frozen if within noise"] = (choice.alternative or choice).frozen
    if probe:
        named["best probe"] = max(depths, key=lambda frozen: (sign * probe[frozen], frozen))
    named["always full"] = 0
    named["always the last quarter"] = blocks - max(1, round(blocks / 4))
    return {name: frozen for name, frozen in named.items() if frozen in depths}


def regrets(named: Mapping[str, int], swept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """By how much the best depth on test is ahead of each choice, paired by example and seed."""
    import numpy as np

    from hf_ft.metrics.significance import SeedScores, difference

    depths, sign = swept["depths"], swept["sign"]
    best = depths[max(depths, key=lambda frozen: sign * float(np.mean(depths[frozen]["values"])))]
    rows = []
    for name, frozen in named.items():
        mine = depths[frozen]
        ahead, behind = (best, mine) if sign > 0 else (mine, best)
        gap = difference(*(SeedScores(one["values"], one["draws"]) for one in (ahead, behind)))
        about = {"choice": name, "frozen": frozen, "method": mine["method"], "test": float(np.mean(mine["values"]))}
        rows.append({**about, "best": best["method"], "regret": gap.value, "low": gap.low, "high": gap.high})
    return rows


def main() -> None:
    """Search, sweep twice, compare."""
    command = Command(OPTIONS, without=("method", "plan"), usage=USAGE)
    layers = command_line(
        sys.argv[1:], (__doc__ or "").splitlines()[0], f"python benchmarks/{Path(__file__).name}", command
    )
    settings = {name: value for _, layer in layers for name, value in layer.items() if value is not None}
    if not settings.get("output_dir"):
        raise UserError(f"Give --output_dir: python benchmarks/{Path(__file__).name} {USAGE}")
    folder = Path(settings.pop("output_dir"))

    def own(name: str) -> dict[str, Any]:
        return {"output_dir": str(folder / "search"), "cache_dir": str(folder / f"{name}-cache")}

    asked = read_depth_settings([("the benchmark", {"seeds": 3} | settings | own("search"))])
    from hf_ft.experiments.freeze_depth import search
    from hf_ft.reports.tables import markdown_table

    record = search(asked)
    assert record.cost is not None
    if asked.anew:
        for name in ("cached", "live"):
            shutil.rmtree(folder / name, ignore_errors=True)
    cached = sweep(asked, folder / "cached", own("cached"))
    live = sweep(asked, folder / "live", {"cache": "off"})
    rows = regrets(choices(record, cached["blocks"], list(cached["depths"])), cached)
    seconds = {
        "search": record.cost.training,
        "search with probes": record.cost.training + record.cost.layer_probes,
    }
    seconds |= {
        f"sweep, {name}": sum(one["seconds"] for one in found["depths"].values())
        for name, found in (("cached", cached), ("live", live))
    }
    header = ["choice", "method", "test", "regret against " + rows[0]["best"], "95 % interval"]
    table = [
        [
            row["choice"],
            row["method"],
            f"{row['test']:.4f}",
            f"{row['regret']:+.4f}",
            f"{row['low']:+.4f} to {row['high']:+.4f}",
        ]
        for row in rows
    ]
    print("\n" + markdown_table(header, table) + "\n")
    whole = seconds["sweep, live"]
    print(
        markdown_table(
            ["training", "seconds", "of the live sweep"],
            [[name, f"{value:.0f}", f"{value / whole:.0%}"] for name, value in seconds.items()],
        )
    )
    summary = {"choices": rows, "seconds": seconds, "estimated_sweep": record.cost.full_sweep}
    (folder / "benchmark.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run(main))
