"""What people look at: tables for the terminal, pictures, and the model card, all drawn from `run.json` alone."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_ft.reports.figures import BLUE, GRID, INK, ORANGE, clip, new_figure, write_figure

Record = Mapping[str, Any]

TITLES = {
    "accuracy": "accuracy",
    "f1_macro": "F1, macro",
    "f1_micro": "F1, micro",
    "f1_weighted": "F1, weighted",
    "precision_macro": "precision, macro",
    "precision_micro": "precision, micro",
    "recall_macro": "recall, macro",
    "recall_micro": "recall, micro",
    "subset_accuracy": "all labels right",
    "map": "mean average precision",
    "log_loss": "log loss (lower is better)",
    "ece": "calibration error (lower is better)",
    "mse": "mean squared error (lower is better)",
    "mae": "mean absolute error (lower is better)",
    "r2": "R2",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "f1": "F1 of entities",
    "precision": "precision of entities",
    "recall": "recall of entities",
}


LIMITS = "The scores hold for data like those above. The base model's own limits and licence apply."


def title(metric: str) -> str:
    """What a metric is called in tables; scores of one type of entity are `f1_of_TYPE`."""
    return TITLES.get(metric, metric.replace("f1_of_", "F1 of ", 1))


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned for the terminal: the first to the left, the others to the right."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [
            str(cell).ljust(width) if not i else str(cell).rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def wrapped(text: str, indent: str = "") -> list[str]:
    """Lines of at most 79 characters; words that are longer, such as paths, stay whole."""
    return textwrap.wrap(text, 79, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table in Markdown."""
    lines = [[escaped(cell).replace("|", "\\|") for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] + ["---:"] * (len(header) - 1))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


CODE = re.compile(r"(`[^`]+`)")
MARKS = re.compile(
    r"[\\<*]|&(?=#?\w+;)|`|(?<=\])(?=\()|(?<!\w)_|_(?!\w)|^(?:[#>]|[+-](?=\s)|[=-]+$|~{3}|\d+(?=[.)]\s))"
)
"""What means something to Markdown or HTML in running text, or at its beginning."""
UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+")
"""Control characters, line ends and marks that turn the direction of writing."""


def escaped(text: str) -> str:
    """Text for a page in Markdown, as it would be read: labels and names come from the data, and may hold anything.

    Everything is on one line, and nothing makes a heading, a link or HTML. Code between backticks stays code.
    """
    parts = CODE.split(" ".join(UNSEEN.sub(" ", str(text)).split()))
    return "".join(part if CODE.fullmatch(part) else MARKS.sub(_escape, part) for part in parts)


def _escape(match: re.Match[str]) -> str:
    mark = match.group(0)
    return {"<": "&lt;", "&": "&amp;"}.get(mark, mark + "\\" if mark[:1].isdigit() else "\\" + mark)


def code(text: str) -> str:
    """Text as code in Markdown, on one line."""
    return "`" + " ".join(UNSEEN.sub(" ", text).replace("`", "'").split()) + "`"


def bullets(lines: Iterable[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {escaped(line)}" for line in lines)


def result_rows(record: Record) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of results: value, 95 % interval and baseline for each split."""
    splits = list(record["metrics"])
    header = ["metric"]
    for split in splits:
        header += [
            f"{split} (n={record['data']['sizes'][split]:,})",
            "95 % interval",
            record["baseline_description"]["name"],
        ]
    rows = []
    for name in record["metrics"][splits[-1]]:
        row = [title(name)]
        for split in splits:
            score, baseline = record["metrics"][split][name], record["baseline"][split].get(name)
            row += [f"{score['value']:.4f}", f"{score['low']:.4f} to {score['high']:.4f}"]
            row += ["" if baseline is None else f"{baseline:.4f}"]
        rows.append(row)
    return header, rows


def group_rows(record: Record) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of depth groups; neighbouring blocks that are treated alike share a row."""
    stages = record["plan"]["stages"]
    # How the head was fitted is known for certain when the run is over.
    done = "stages" in record
    fitted = [bool(stage["solver"]) for stage in record["stages"]] if done else [stage["solved"] for stage in stages]
    lengths = ["solved" if exact else _length(stage) for exact, stage in zip(fitted, stages, strict=True)]
    header = ["depth group", "parameters"]
    header += [f"{stage['name']}, {length}" for stage, length in zip(stages, lengths, strict=True)]
    rows: list[list[Any]] = []
    for i, group in enumerate(record["plan"]["groups"]):
        settings = [stage["settings"][i] for stage in stages]
        cells = [mode if exact else _setting(mode, rate) for exact, (mode, rate) in zip(fitted, settings, strict=True)]
        if rows and group["role"] == "block" and rows[-1][0].startswith("block") and rows[-1][2:] == cells:
            first = rows[-1][0].split()[1].split("-")[0]
            rows[-1][:2] = [f"blocks {first}-{group['name'].split()[1]}", rows[-1][1] + group["parameters"]]
        else:
            rows.append([group["name"], group["parameters"], *cells])
    return header, [[row[0], f"{row[1]:,}", *row[2:]] for row in rows]


def _length(stage: Mapping[str, Any]) -> str:
    return f"{stage['max_steps']} steps" if stage["max_steps"] > 0 else f"{stage['epochs']:g} epochs"


def _setting(mode: str, rate: float) -> str:
    return mode if mode == "frozen" else f"{mode} at {rate:.2g}"


def before_training(record: Record, machine: Record, alone: str = "") -> str:
    """What is about to happen: data, model, device, and the table of depth groups with their settings.

    `standalone_seconds` is a note where fewer processes run than were asked for.
    """
    data, model = record["data"], record["model"]
    sizes = ", ".join(f"{size:,} {name}" for name, size in data["sizes"].items())
    kind = "" if data["problem_type"] in record["task"] else f", {data['problem_type'].replace('_', ' ')}"
    lines = [
        f"Task    {record['task']}, {data['predicts']}{kind}",
        f"Data    {data['name']}: {sizes}",
        *(f"        {note}" for note in data["notes"]),
        f"Model   {model['name']} ({model['class']}, {model['parameters']:,} parameters)",
        *(f"        {note}" for note in model["notes"]),
        f"Method  {record['method']}",
        f"Device  {machine['device']}, {machine['processes']} process{'es' * (machine['processes'] > 1)}",
        *(f"        {note}" for note in [alone] if note),
        *(f"Code    {line}" for line in extension_lines(record)),
        "",
        text_table(*group_rows(record)),
    ]
    return "\n".join(lines)


def after_training(record: Record, folder: Path) -> str:
    """What came out: the table of results, what was proved, and what it cost."""
    seconds = sum(stage["seconds"] for stage in record["stages"])
    trained = " then ".join(f"{stage['trainable']:,}" for stage in record["stages"])
    header, rows = _narrow(record)
    proofs = "\n".join(f"  {line}" for line in proof_lines(record))
    notes = "".join(f"Note: {note}.\n" for stage in record["stages"] for note in stage["notes"])
    return (
        f"{text_table(header, rows)}\n"
        + "".join(f"{line}\n" for sentence in copies_lines(record) for line in wrapped(sentence))
        + f"\nProved:\n{proofs}\n"
        f"Training took {seconds:.0f} s; {trained} of {record['model']['parameters']:,} parameters trained.\n"
        + "".join(f"{line}\n" for line in cache_lines(record))
        + "".join(f"{line}\n" for sentence in extension_lines(record) for line in wrapped(sentence))
        + "".join(f"{line}\n" for sentence in head_input_lines(record) for line in wrapped(sentence))
        + f"{notes}"
        f"The model is in {folder}"
    )


def _narrow(record: Record) -> tuple[list[str], list[list[str]]]:
    """The table of results with one row per split and metric, so that it fits 80 columns."""
    rows = [
        [
            f"{split} {title(name).removesuffix(' (lower is better)')}",
            f"{score['value']:.4f}",
            f"{score['low']:.4f} to {score['high']:.4f}",
            "" if name not in record["baseline"][split] else f"{record['baseline'][split][name]:.4f}",
            f"{score['n']:,}",
        ]
        for split, scores in record["metrics"].items()
        for name, score in scores.items()
    ]
    return ["", "value", "95 % interval", record["baseline_description"]["name"], "n"], rows


def extension_lines(record: Record) -> list[str]:
    """The code of the caller's own that took part, and the metrics that it reported."""
    brought = record.get("extensions", {})
    named = [f"{name} {value if isinstance(value, str) else _listed(value)}" for name, value in brought.items()]
    lines = [f"Code from outside hf_ft took part: {'; '.join(named)}."] if named else []
    for split, values in record.get("custom_metrics", {}).items():
        lines.append(f"Reported on {split}: {', '.join(f'{name} {value:.4f}' for name, value in values.items())}.")
    return lines


def head_input_lines(record: Record) -> list[str]:
    """Where the head reads less than the layers offer: the figures and the remedy; nothing where it does not."""
    found = record["head_input"]
    if not found or not found["reads_less"]:
        return []
    where = f"after block {found['best_boundary'] - 1}" if found["best_boundary"] else "before the first block"
    best, (low, high) = found["boundary_scores"][found["boundaries"].index(found["best_boundary"])], found["difference"]
    return [
        f"The head reads less than the frozen layers offer: {title(found['metric'])} of a linear probe is "
        f"{found['head_score']:.3f} on what the head reads and {best:.3f} on the mean of all "
        f"positions {where} ({found['examples'][1]:,} validation examples; difference {low:.3f} to {high:.3f}). "
        f"`--method {found['suggested_method']}` trains the layers in between."
    ]


def copies_lines(record: Record) -> list[str]:
    """One sentence for each split with examples that stand in train, too: the score without them."""
    lines = []
    for found in record["data"]["duplicates"]:
        split = found["split"]
        if found["of"] == "train" and split != "train":
            scores, size = record["metrics_without_duplicates"].get(split), record["data"]["sizes"][split]
            lines.append(duplicates_note(split, found["examples"], size, record["metric"], scores))
    return lines


def duplicates_note(split: str, examples: int, size: int, metric: str, scores: Record | None) -> str:
    """The score of a split without its examples that stand in train; without `scores` all of them do."""
    if scores is None:
        return f"All {size:,} examples of {split} stand in train, too: its scores say nothing of new data."
    score = scores[metric]
    return (
        f"Without the {examples:,} of {size:,} {split} examples that stand in train, too: {title(metric)} "
        f"{score['value']:.4f} ({score['low']:.4f} to {score['high']:.4f})."
    )


def proof_lines(record: Record) -> list[str]:
    """One sentence for each proof of the run."""
    proofs, lines = record["proofs"], []
    if proofs.get("only_head_new"):
        fresh = ", ".join(proofs["only_head_new"]["new"][:4])
        lines.append(f"only the head was new: {proofs['only_head_new']['loaded']} tensors loaded; fresh: {fresh}")
    if any(proofs["frozen"]["tensors"]):
        counts = " and ".join(str(count) for count in proofs["frozen"]["tensors"])
        lines.append(f"frozen stayed frozen: {counts} parameters and buffers bit-identical after training")
    if proofs.get("load_back"):
        lines.append(
            "loads without hf_ft: in a fresh process the plain `pipeline` gives the same labels, and scores that "
            f"differ by at most {proofs['load_back']['largest_difference']:.1g}"
        )
    return lines


def draw_figures(record: Record, folder: Path) -> list[Path]:
    """Draw the learning curves and the confusion matrix as PNG; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    if not all(stage["solver"] for stage in record["stages"]):
        drawn.append(draw_curves(record, folder / "learning_curves.png"))
    solved = [stage["solver"] for stage in record["stages"] if stage["solver"]]
    drawn += [draw_penalties(solver, folder / "penalties.png") for solver in solved[-1:]]
    if record["confusion"]:
        drawn.append(draw_confusion(record, list(record["confusion"])[-1], folder / "confusion_matrix.png"))
    return drawn


def curves(record: Record) -> tuple[dict[str, list[tuple[float, float]]], list[tuple[float, str]]]:
    """Points (epoch, value) of each logged quantity through all stages, and where each stage of steps begins.

    The score of a solved head is where the next stage starts from.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    begins, begin = [], 0.0
    for stage in record["stages"]:
        if not stage["solver"]:
            begins.append((begin, stage["name"]))
        for entry in stage["history"]:
            for name, value in entry.items():
                if name != "loss" or not stage["solver"]:  # a solved head's loss includes its penalty
                    points.setdefault(name, []).append((entry["epoch"], value))
            begin = entry["epoch"]
    return points, begins


def draw_curves(record: Record, path: Path) -> Path:
    """Loss on train and validation, and the chosen metric on validation, over epochs; stage borders dashed."""
    points, begins = curves(record)
    figure, (left, right) = new_figure(2, 9.0, 3.6)
    series = [(left, "loss", "train", ORANGE), (left, "eval_loss", "validation", BLUE)]
    series.append((right, f"eval_{record['metric']}", "validation", BLUE))
    for axis, name, label, colour in series:
        if name in points:
            x, y = zip(*points[name], strict=True)
            axis.plot(x, y, color=colour, linewidth=2, marker="o" if len(x) < 25 else None, markersize=3.5)
            axis.annotate(f" {label}", (x[-1], y[-1]), color=colour, fontsize=10, va="center")
    for axis, title in ((left, "loss"), (right, f"{TITLES.get(record['metric'], record['metric'])} on validation")):
        axis.set_title(title, fontsize=11, color=INK, loc="left")
        axis.set_xlabel("epoch", color=INK)
        axis.grid(axis="y", color=GRID, linewidth=0.8)
        axis.margins(x=0.12)
        for begin, name in begins if len(begins) > 1 else []:
            axis.axvline(begin, color=INK, linewidth=0.8, linestyle="--")
            axis.annotate(
                name,
                (begin, 1.0),
                xycoords=("data", "axes fraction"),
                fontsize=9,
                color=INK,
                ha="left",
                va="top",
                xytext=(3, -2),
                textcoords="offset points",
            )
    return write_figure(figure, path)[0]


def draw_penalties(solver: Mapping[str, Any], path: Path) -> Path:
    """Loss on train and validation of a head fitted to convergence, over the penalties tried; the chosen one dashed."""
    figure, axis = new_figure(1, 6.0, 3.6)
    steps = solver["path"]
    penalties = [step["penalty"] for step in steps]
    for name, label, colour in (("objective", "train, with penalty", ORANGE), ("validation", "validation", BLUE)):
        values = [step[name] for step in steps]
        axis.plot(penalties, values, color=colour, linewidth=2, marker="o", markersize=3.5)
        axis.annotate(f" {label}", (penalties[-1], values[-1]), color=colour, fontsize=10, va="center")
    axis.axvline(solver["penalty"], color=INK, linewidth=0.8, linestyle="--")
    axis.set_xscale("log")
    axis.invert_xaxis()  # from the strongest on, as they were tried
    axis.set_title("loss of the head, fitted to convergence", fontsize=11, color=INK, loc="left")
    axis.set_xlabel("penalty (weaker to the right)", color=INK)
    axis.grid(axis="y", color=GRID, linewidth=0.8)
    axis.margins(x=0.25)
    return write_figure(figure, path)[0]


def draw_confusion(record: Record, split: str, path: Path) -> Path:
    """Share of each true class (row) that was given each class (column); counts are written in small matrices."""
    import numpy as np

    labels = record["data"]["labels"]
    many = len(labels)
    cells = np.zeros((many, many), dtype=np.int64)
    for true, predicted, count in record["confusion"][split]:
        cells[true, predicted] = count
    shares = cells / np.maximum(1, cells.sum(axis=1, keepdims=True))
    size = min(9.0, 3.4 + 0.32 * many)
    figure, axis = new_figure(1, size + 0.8, size)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if many <= 40:
        axis.set_xticks(range(many), [clip(label) for label in labels], rotation=90 if many > 4 else 0)
        axis.set_yticks(range(many), [clip(label) for label in labels])
    if many <= 15:
        for i, j in np.argwhere(cells):
            colour = "white" if shares[i, j] > 0.55 else INK
            axis.text(j, i, f"{cells[i, j]}", ha="center", va="center", fontsize=9, color=colour)
    axis.set_xlabel("predicted", color=INK)
    axis.set_ylabel("true", color=INK)
    axis.set_title(f"{split}, n = {cells.sum():,}", fontsize=11, color=INK, loc="left")
    figure.colorbar(image, ax=axis, label="share of the true class", shrink=0.8)
    return write_figure(figure, path)[0]


def comparison_figure(scores: Mapping[str, Mapping[str, float]], path: Path) -> Path:
    """Draw named accuracies (`value`, `low`, `high`) as horizontal bars with their intervals; returns the file."""
    figure, axis = new_figure(1, 7.2, 1.1 + 0.55 * len(scores))
    for i, (name, score) in enumerate(reversed(list(scores.items()))):
        first = i == len(scores) - 1
        axis.barh(i, score["value"], color=BLUE if first else "#9fb8c8", height=0.62)
        axis.plot([score["low"], score["high"]], [i, i], color=INK, linewidth=1.5)
        axis.annotate(
            f"{score['value']:.3f}", (score["high"], i), xytext=(5, 0), textcoords="offset points", va="center"
        )
        axis.annotate(name, (0.012, i), color="white" if first else INK, va="center", fontsize=10)
    axis.set_yticks([])
    axis.set_xlim(0, 1.08)
    axis.set_title("test accuracy, with 95 % interval", fontsize=11, color=INK, loc="left")
    return write_figure(figure, path)[0]


def draw_groups(title: str, groups: Sequence[Mapping[str, Any]], stage: str, path: Path) -> Path:
    """Draw the depth groups from input (bottom) to head (top), as long as they have parameters; returns the file.

    Each of `groups` has `name`, `parameters`, `modules` and `stages`: what each stage does to it. Stage by stage is
    told by the table of `hf-ft inspect`; the picture shows the one called `stage`.
    """
    figure, axis = new_figure(1, 7.2, 1.2 + 0.26 * len(groups))
    largest = max(group["parameters"] for group in groups)
    for i, group in enumerate(groups):
        what = group["stages"][stage]
        color = "#b5b5b5" if what == "frozen" else ORANGE if what.startswith("adapt") else BLUE
        axis.barh(i, group["parameters"], color=color, height=0.74)
        module = (group["modules"] or [""])[0] + (" …" if len(group["modules"]) > 1 else "")
        text = f"{group['parameters']:,}  {what}  {module}" if len(module) < 34 else f"{group['parameters']:,}  {what}"
        axis.annotate(text, (group["parameters"], i), xytext=(5, 0), textcoords="offset points", va="center", size=9)
    axis.set_yticks(range(len(groups)), [group["name"] for group in groups])
    axis.set_xlim(0, largest * 1.9)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    axis.set_title(title, fontsize=11, color=INK, loc="left")
    return write_figure(figure, path)[0]


def card(record: Record) -> str:
    """The model card: metadata for the Hub, then how to use the model, results, how it was trained and its proofs."""
    data = record["data"]
    return "\n\n".join(
        [
            _card_metadata(record),
            f"# {escaped(_title(record))}",
            escaped(f"Task: {record['task'].replace('_', ' ')}, {data['predicts']} ({_listed(data['labels'])}).") + "\n"
            f"It is {_base(record)}, trained with {_method(record)}.",
            "## Use\n\n" + _usage(record),
            "## Results\n\n" + markdown_table(*result_rows(record)) + "\n\n" + _results_note(record),
            "\n\n".join(_pictures(record)),
            "\n\n".join(
                ["## Training", markdown_table(*group_rows(record)), _training_note(record)]
                + [escaped(line) for line in extension_lines(record)]
            ),
            "## Data\n\n" + _data_note(record),
            "## Proofs\n\n" + bullets(proof_lines(record)),
            "## Limits\n\n" + " ".join([*map(escaped, head_input_lines(record)), LIMITS]),
            f"Made with hf_ft {record['hf_ft']}. All figures on this page stand in `run.json`.\n",
        ]
    )


def _card_metadata(record: Record) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    model, data = record["model"], record["data"]
    split = list(record["metrics"])[-1]
    results = [
        EvalResult(
            task_type=record["pipeline"],
            dataset_type=data["hub_id"] or "local",
            dataset_name=data["name"],
            dataset_split=split,
            metric_type=name,
            metric_value=round(score["value"], 4),
        )
        for name, score in record["metrics"][split].items()
    ]
    metadata = ModelCardData(
        model_name=_title(record),
        library_name="transformers",
        pipeline_tag=record["pipeline"],
        base_model=model["hub_id"],
        datasets=[data["hub_id"]] if data["hub_id"] else None,
        metrics=[record["metric"]],
        tags=["hf_ft", "transfer-learning", record["method"].split(":")[0]],
        eval_results=results,
    )
    return f"---\n{metadata.to_yaml()}\n---"


def _title(record: Record) -> str:
    how = "fine-tuned" if record["proofs"]["only_head_new"] else "trained from scratch"
    return f"{record['model']['name']} {how} on {record['data']['name']}"


def _base(record: Record) -> str:
    model = record["model"]
    if not record["proofs"]["only_head_new"]:
        return f"the architecture of {code(model['name'])} with random weights"
    if not model["hub_id"]:
        return code(model["name"])
    commit = f" at commit `{model['commit'][:12]}`" if model["commit"] else ""
    return f"[{model['hub_id']}](https://huggingface.co/{model['hub_id']}){commit}"


def _method(record: Record) -> str:
    return (
        f"method {code(record['method'])} ({record['paper']})" if record["paper"] else "a plan of its own (see below)"
    )


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")


def _usage(record: Record) -> str:
    return (
        "```python\nfrom transformers import pipeline\n\n"
        f'classify = pipeline("{record["pipeline"]}", model="THIS_REPOSITORY")\n{record["usage"]}\n```'
    )


def _results_note(record: Record) -> str:
    note = (
        "Intervals are 95 % intervals over examples: by bootstrap, and exact where nearly all answers are right, or "
        f"wrong; {record['baseline_description']['note']}."
    )
    if record["threshold"] is not None:
        note += f" Labels count from a probability of {record['threshold']:.3f} on, fitted on validation."
    return " ".join([note, *map(escaped, copies_lines(record))])


def _pictures(record: Record) -> list[str]:
    """The pictures that `draw_figures` drew, for the card."""
    solved = [bool(stage["solver"]) for stage in record["stages"]]
    drawn = {
        "Learning curves": not all(solved),
        "Penalties": any(solved),
        "Confusion matrix": bool(record["confusion"]),
    }
    return [f"![{name}](figures/{name.lower().replace(' ', '_')}.png)" for name, there in drawn.items() if there]


def cache_lines(record: Record) -> list[str]:
    """One sentence for each stage whose frozen layers ran once per example, or might have."""
    lines = []
    for stage in record["stages"]:
        if cache := stage["cache"]:
            made = f"{cache['computed']:,} of {cache['examples']:,} examples" if cache["computed"] else "no example"
            lines.append(f"Stage {stage['name']}: cut {cache['split']}; {made} ran through what is frozen, once.")
        elif stage["uncached"]:
            lines.append(f"Stage {stage['name']}: what is frozen ran in every epoch, since {stage['uncached']}.")
    return lines


def _training_note(record: Record) -> str:
    machine, settings = record["machine"], record["settings"]
    seconds = sum(stage["seconds"] for stage in record["stages"])
    memory = max(stage["peak_memory"] for stage in record["stages"])
    named = ", ".join(
        f"{name} {settings[name]}" for name in ("per_device_train_batch_size", "lr_scheduler_type", "seed")
    )
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        " ".join([*map(escaped, cache_lines(record)), ""])
        + f"Numbers behind `train` and `adapt` are learning rates. Settings: "
        f"{named}, weight_decay "
        f"{settings['weight_decay']}. Training took {seconds:.0f} s and at most {memory / 2**30:.1f} GiB on "
        f"{machine['device']} ({machine['cores']} cores). Versions: {versions}."
    )


def _data_note(record: Record) -> str:
    data = record["data"]
    sizes = ", ".join(f"{size:,} {name}" for name, size in data["sizes"].items())
    lines = [f"{escaped(data['name'])}: {sizes}. Content fingerprint `{data['fingerprint']}`."]
    return "\n".join([*lines, *([bullets(data["notes"])] if data["notes"] else [])])
