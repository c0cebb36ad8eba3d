"""How well the scores of `hf-ft rank` predict fine-tuning: Kendall's tau with the test scores of trained candidates.

python benchmarks/rank.py MODEL... --task T --dataset D --output_dir OUT [--cut 2,4] [--seeds 3] [settings of training]

The first model is also a candidate with random weights, which a score should rank last, and with `--cut` cut to its
first blocks. Every candidate is trained with `--method` (default: full) and each seed, and scored on test; the
ranking reads the training split alone. Finished parts are not repeated.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_ft.cli.app import run
from hf_ft.errors import UserError
from hf_ft.experiments.comparison_settings import Layer, parse_integers, parse_seeds
from hf_ft.settings.parse import Command, command_line

OWN = ("cut", "seeds")
OPTIONS = {
    "cut": ("N,M,...", "also the first model, cut to N blocks"),
    "seeds": ("N", "number of seeds for each candidate, or a list (default: 3)"),
}
USAGE = "MODEL... --task T --dataset D --output_dir OUT [options]"


def derived(model: str, task: str, blocks: Sequence[int], folder: Path) -> list[str]:
    """Folders with a model of random weights, and with the first blocks of a model as it is."""
    import transformers

    from hf_ft.models.loading_output import silent_loading
    from hf_ft.models.model_config import resolve_model
    from hf_ft.tasks.registry import get_task

    source, kind = resolve_model(model), get_task(task)
    auto = getattr(transformers, kind.auto_class)
    parts = transformers.AutoTokenizer if kind.modality.name == "text" else transformers.AutoImageProcessor
    names = ["random", *(f"{count}_blocks" for count in blocks)]
    for name, count in zip(names, (None, *blocks), strict=True):
        if (folder / name / "config.json").exists():
            continue
        transformers.set_seed(0)
        with silent_loading():
            if count is None:
                made = auto.from_config(transformers.AutoConfig.from_pretrained(source))
            else:
                made = auto.from_pretrained(source, num_hidden_layers=count)
            parts.from_pretrained(source).save_pretrained(folder / name)
            made.save_pretrained(folder / name)
    return [str(folder / name) for name in names]


def truth(model: str, layers: Sequence[Layer], method: str, seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Test scores of a candidate that is trained with every seed."""
    from hf_ft.experiments.training_experiment import TrainingExperiment
    from hf_ft.experiments.trials import Trial
    from hf_ft.records import ComparisonRecord

    experiment = TrainingExperiment([*layers, ("the benchmark", {"model": model})], folder, ComparisonRecord)
    results = [experiment.run(Trial(method, seed)) for seed in seeds]
    if wrong := [result.error for result in results if result.error]:
        raise RuntimeError(f"{model}: {wrong[0]}")
    values = [result.score(experiment.split, experiment.metric) for result in results]
    seconds = sum(result.seconds for result in results)
    print(
        f"{folder.name:20} {experiment.metric} {', '.join(f'{value:.4f}' for value in values)}  {seconds:.0f} s",
        flush=True,
    )
    return {"values": values, "seconds": seconds, "sign": 1 if experiment.higher_is_better else -1}


def report(rows: Sequence[Mapping[str, Any]], agreement: Mapping[str, float | None]) -> str:
    """The table of candidates, best trained first, and the agreement of each score with it."""
    from hf_ft.reports.ranking_summary import NAMES
    from hf_ft.reports.tables import markdown_table

    header = ["candidate", *NAMES.values(), "mean rank", "trained, test", "seeds from, to"]
    lines = [
        [
            row["name"],
            *(f"{row['scores'][name]:.3f}" for name in NAMES),
            f"{row['mean_rank']:.1f}",
            f"{row['mean']:.4f}",
            f"{min(row['values']):.3f}, {max(row['values']):.3f}",
        ]
        for row in rows
    ]
    names = {**NAMES, "mean_rank": "mean rank"}
    taus = [[names[name], "undefined" if tau is None else f"{tau:.2f}"] for name, tau in agreement.items()]
    return f"{markdown_table(header, lines)}\n\n{markdown_table(['score', 'Kendall tau with training'], taus)}"


def main() -> None:
    """Rank, train everything, compare."""
    models = list(itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    command = Command(OPTIONS, without=("model", "plan"), usage=USAGE)
    prog = f"python benchmarks/{Path(__file__).name}"
    layers = command_line(sys.argv[1 + len(models) :], (__doc__ or "").splitlines()[0], prog, command)
    explicit: dict[str, Any] = {name: value for _, layer in layers for name, value in layer.items()}
    if not models or not explicit.get("output_dir") or not explicit.get("task"):
        raise UserError(f"Give at least one model, --task, --dataset and --output_dir: {prog} {USAGE}")
    folder = Path(explicit["output_dir"])
    from hf_ft import rank
    from hf_ft.experiments.candidate_names import short_names
    from hf_ft.heads.rank_correlation import tau
    from hf_ft.records import to_json

    blocks = parse_integers(explicit["cut"], "cut", 1) if "cut" in explicit else []
    models += derived(models[0], explicit["task"], blocks, folder / "models")
    settings = {name: value for name, value in explicit.items() if name not in (*OWN, "method", "output_dir")}
    record = rank(models, **settings, output_dir=str(folder / "rank"))
    scored = {row.name: to_json(row) for row in record.scored}
    rest = [("the benchmark", {**settings, "output_dir": str(folder)})]
    rows = []
    seeds = parse_seeds(explicit.get("seeds", 3))
    for model, name in short_names(models).items():
        trained = truth(model, rest, explicit.get("method", "full"), seeds, folder / name)
        rows.append({**scored[name], **trained, "mean": sum(trained["values"]) / len(trained["values"])})
    rows.sort(key=lambda row: -row["sign"] * row["mean"])
    right = [row["sign"] * row["mean"] for row in rows]
    agreement = {name: tau([row["scores"][name] for row in rows], right) for name in rows[0]["scores"]}
    agreement["mean_rank"] = tau([-row["mean_rank"] for row in rows], right)
    print("\n" + report(rows, agreement))
    (folder / "benchmark.json").write_text(json.dumps({"rows": rows, "tau": agreement}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(run(main))
