"""Which source model: candidates are scored on the user's own data before training, and the first few confirmed.

No score is the truth, so there is a panel of three, their agreement, and what each candidate costs. A ranking that is
run again goes on: what is finished in its folder stays.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import UserError, shorten
from hf_ft.models import sources_for
from hf_ft.settings import (
    SECTIONS,
    Config,
    DataSettings,
    ModelSettings,
    OutputSettings,
    Settings,
    build,
    check_path,
    normalise,
)
from hf_ft.storage import files_digest, output_folder, text_digest

if TYPE_CHECKING:
    from hf_ft.data import Splits

Layers = tuple[tuple[str, Mapping[str, Any]], ...]
Record = dict[str, Any]
Finetune = Callable[[Settings], Record]

MOST = 2000
"""Examples of train that are scored where nothing else is said."""
FILE = "rank.json"
ELSEWHERE = {
    *("model", "dataset", "output_dir", "overwrite_output_dir", "resume_from_checkpoint"),
    *("cache", "cache_dir", "cache_max_gb", "report_to", "disable_tqdm"),
}
"""Settings that change neither scores nor trained models, or stand in the record on their own."""
OF_SCORES = {
    "task",
    *ModelSettings.options(),
    *DataSettings.options(),
    *("max_length", "seed", "bf16", "fp16", "cache_dtype"),
}
"""Settings that scores depend on; the others matter to `confirm` alone."""


SECTIONS_OF_SCORES = tuple(section for section in SECTIONS if section not in (ModelSettings, OutputSettings))
"""What is checked before any model has its turn: all settings but those of one model and one run."""

OF_DATA = ("name", "fingerprint", "examples")
"""What tells whether the data are those that were scored."""


def named_models(models: Sequence[str], listed: str | None, size: str | None, layers: Layers) -> list[str]:
    """The candidates of a command line: those named, those in a file, or those of a size in the list of `hf-ft models`.

    Raises:
        UserError: no such file or size, or a size beside names.
    """
    found = [*models, *(_lines(listed) if listed else [])]
    if size is None:
        return found
    if found:
        raise UserError("Give either models or --size, which takes those of the list that hf-ft models prints.")
    tasks = [normalise(layer, source).get("task") for source, layer in layers]
    return [source.name for source in sources_for(next((task for task in reversed(tasks) if task), None), size)]


def _lines(path: str) -> list[str]:
    """The names in a file, one on each line; what follows a # is a remark."""
    check_path(str(Path(path).expanduser().absolute()), "list of models")
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read: {error}. --list takes a text file with one model on each line."
        ) from None
    return [name for line in text.splitlines() if (name := line.partition("#")[0].strip())]


def rank_models(models: Sequence[str], confirm: int, layers: Layers, finetune: Finetune) -> Record:
    """Rank as layers of settings say (see `build`), print the table and return the record; see `hf_ft.rank`.

    `finetune` trains a candidate that is to be confirmed: what runs all steps stands above experiments.

    Raises:
        UserError: as `rank`.
    """
    if not all(model.strip() for model in models):
        raise UserError("The name of a model is empty. Give Hub ids, folders or builtin.")
    names = short_names(models)
    if len(names) < 2:
        given = f"only '{next(iter(names))}' was given" if names else "none was given"
        raise UserError(f"A ranking needs at least two different models, and {given}. See hf-ft models for a list.")
    if confirm < 0:
        raise UserError(f"--confirm must be at least 0, not {confirm}.")
    base, out = _base(layers)
    with output_folder.locked(out, "ranking"):
        return _rank(names, confirm, base, out, layers, finetune)


def _rank(
    names: Mapping[str, str], confirm: int, base: Settings, out: Path, layers: Layers, finetune: Finetune
) -> Record:
    from hf_ft.data import load_splits
    from hf_ft.environment import machine, versions
    from hf_ft.reports import ranking as ranking_report
    from hf_ft.training import public_name

    args, config = base.arguments(), _of_scores(base.config)
    splits = load_splits(config, args.seed)
    record: Record = {
        "task": base.config.task,
        "settings": _chosen(base, OF_SCORES),
        "data": {
            "name": public_name(base.config.dataset),
            "fingerprint": splits.fingerprint,
            "examples": len(splits.train),
            "predicts": splits.target.describe(splits.labels),
            "notes": [note for note in splits.notes if note.startswith("train")],
        },
        "machine": machine(),
        "versions": versions(),
    }
    if base.config.overwrite_output_dir:
        _clear(out)
    before = _earlier(out, record)
    print(ranking_report.before(record), flush=True)
    if "training" in before:
        record["training"] = before["training"]
    record["candidates"] = _scored(names, config, args, splits, before, out, record)
    _place(record)
    if confirm:  # takes long: what is known stands before it
        _finish(out, record | {"confirming": confirm}, splits)
        _confirm(names, confirm, layers, base, out, record, finetune)
    _finish(out, record, splits)
    print(f"The ranking is in {out}")
    return record


def _finish(out: Path, record: Record, splits: Splits) -> None:
    """Write the ranking with its page and picture, and print it."""
    from hf_ft.reports import ranking as ranking_report

    _compare_with_confirmed(record, splits)
    _write(out, record)
    with output_folder.staging(out) as new:
        ranking_report.write(record, new)
    print("\n" + ranking_report.after(record), flush=True)


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Each model as it was given -> its last parts, as many as tell the models apart; the same one counts once."""
    parts: dict[tuple[str, ...], str] = {}
    for model in models:
        path = Path(model).expanduser()
        parts.setdefault(path.resolve().parts if path.exists() else path.parts, model)
    for depth in range(1, max(map(len, parts), default=0) + 1):
        short = ["/".join(name[-depth:]).removeprefix("//") for name in parts]
        if len(set(short)) == len(parts):
            break
    return dict(zip(parts.values(), short, strict=True)) if parts else {}


# --- Settings and the folder ------------------------------------------------------------------------------------------


def _base(layers: Layers) -> tuple[Settings, Path]:
    """The settings of scoring, and the output folder.

    Raises:
        UserError: wrong settings, or a folder that holds something else than a ranking.
    """
    given: dict[str, Any] = {}
    for source, layer in layers:
        given |= {name: value for name, value in normalise(layer, source).items() if value is not None}
    if "model" in given:
        raise UserError(
            "`--model` is not supported by hf-ft rank.", option="model", hint="List the models before the first option."
        )
    if given.get("cache") == "off":
        raise UserError("A ranking reads features from the cache. Leave out --cache off.")
    if not given.get("output_dir"):
        raise UserError("`--output_dir` is missing.", option="output_dir", hint="Set it to a folder for the result.")
    out = Path(given["output_dir"]).expanduser().absolute()
    settings = build(*layers, sections=SECTIONS_OF_SCORES)
    output_folder.check_ours(out, "ranking")
    return settings, out


def _clear(out: Path) -> None:
    """Remove a ranking with its runs, and nothing else from its folder."""
    from hf_ft.training import discard_model

    output_folder.remove(out)
    for folder in sorted((out / "confirm").glob("*")):
        discard_model(folder)


def _of_scores(config: Config) -> Config:
    """The settings with which data are read for scoring."""
    if not {"max_train_examples", "examples_per_class"} & config.explicit:
        config = dataclasses.replace(config, max_train_examples=MOST)
    # Scores read train alone; one example keeps images of the other splits from being decoded for nothing.
    return dataclasses.replace(config, max_eval_examples=1)


def _settings(layers: Layers, model: str, folder: Path) -> Settings:
    """The settings of the run of one model in a folder, which goes on where there is one already."""
    own: dict[str, Any] = {"model": model, "output_dir": str(folder)}
    if folder.is_dir():
        own["resume_from_checkpoint"] = True
    return build(*layers, ("the ranking", own))


def _chosen(settings: Settings, names: set[str]) -> dict[str, Any]:
    """What the user set among these settings, as JSON gives it back."""
    every = {**vars(settings.config), **settings.training}
    chosen = {name: every[name] for name in sorted(settings.config.explicit & names - ELSEWHERE)}
    return dict(json.loads(json.dumps(chosen, default=str)))


def _earlier(out: Path, record: Record) -> Record:
    """The ranking that stands in the folder, an empty one where there is none or it is to be replaced.

    Raises:
        UserError: it has other settings or data.
    """
    path = out / FILE
    if not path.is_file():
        return {"candidates": []}
    try:
        before: Record = json.loads(path.read_text(encoding="utf-8"))
        settings = before["settings"]
        had, have = ({name: one["data"][name] for name in OF_DATA} for one in (before, record))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged. Remove it, or choose another folder.") from None
    _same(settings, record["settings"], out)
    _same(had, have, out)
    return before


def _same(before: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Raise where two sets of settings differ."""
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if names:
        listed = shorten(f"{name} was {_spoken(before, name)}, now {_spoken(now, name)}" for name in names)
        raise UserError(
            f"{out} holds a ranking with other settings or data: {listed}. Set what it had, choose another "
            "folder, or replace it with --overwrite_output_dir."
        )


def _spoken(settings: Mapping[str, Any], name: str) -> str:
    return f"'{settings[name]}'" if name in settings else "not set"


def _write(out: Path, record: Record) -> None:
    """Replace `rank.json` in one step, so that it is whole whenever the process ends."""
    output_folder.write(out, FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


# --- Scoring ----------------------------------------------------------------------------------------------------------


def _scored(
    names: Mapping[str, str], config: Config, args: Any, splits: Splits, before: Record, out: Path, record: Record
) -> list[Record]:
    """A row for each candidate, those scored earlier after those named now: its scores, or why it has none.

    A candidate that has other weights now is replaced.

    Raises:
        UserError: fewer than two could be scored.
    """
    finished = {row["identity"]: _lasting(row) for row in before["candidates"] if "scores" in row}
    rows: list[Record] = []
    for number, (model, name) in enumerate(names.items(), start=1):
        identity = _identity(model)
        row = finished.get(identity) or _row(model, name, config, args, splits)
        row = {**row, "name": name, "identity": identity, "location": _where(model)}
        rows.append(row)
        _write(out, {**record, "candidates": [*rows, *_others(before, rows)]})
        told = "as before" if identity in finished else row.get("reason") or f"{row['seconds']:.0f} s"
        print(f"{number}/{len(names)}  {name}: {told}", flush=True)
    failed = [row for row in rows if "reason" in row]
    if len(rows) - len(failed) < 2:
        reasons = " ".join(f"{row['name']}: {row['reason'].rstrip('.')}." for row in failed)
        done = len(rows) - len(failed)
        raise UserError(f"Only {done} of {len(rows)} models could be scored, and a ranking needs two. {reasons}")
    return [*rows, *(row for row in _others(before, rows) if "scores" in row)]


def _others(before: Record, rows: Sequence[Record]) -> list[Record]:
    """The rows of an earlier call that none of these stands for, by weights or by where the model is.

    One whose name is another's now is told apart by the beginning of its identity.
    """
    known = {row[key] for row in rows for key in ("identity", "location")}
    names = {row["name"] for row in rows}
    others = [_lasting(row) for row in before["candidates"] if not known & {row["identity"], row.get("location")}]
    return [row | {"name": f"{row['name']} ({row['identity'][:6]})"} if row["name"] in names else row for row in others]


def _lasting(row: Record) -> Record:
    """A row without the reason why its model could not be fine-tuned then."""
    return {key: value for key, value in row.items() if key != "confirmed" or "value" in value}


def _row(model: str, name: str, config: Config, args: Any, splits: Splits) -> Record:
    """What is found out about a candidate, or the reason why nothing is."""
    from hf_ft.experiments.candidate_scores import score_candidate

    try:
        check_path(model, "model")
        with redirect_stdout(io.StringIO()):  # what a cache saves is said of training, which this is not
            return score_candidate(dataclasses.replace(config, model=model), args, splits)
    except Exception as error:  # as many kinds as there are authors of models; one that fails must not end the others
        return {"reason": _reason(error, model, name)}


def _reason(error: Exception, model: str, name: str) -> str:
    """What went wrong on one line, with the short name of a model in place of its path."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split()).replace(model, name)


def _where(model: str) -> str:
    """What tells models apart by where they are, without telling where: a hash of the folder or Hub id."""
    path = Path(model).expanduser()
    return text_digest(str(path.resolve() if path.exists() else path))


def _identity(model: str) -> str:
    """What tells whether a model is still the one that was scored: of a folder its content, of a Hub id the name."""
    from hf_ft.models import resolve_model

    try:
        folder = Path(resolve_model(model))
    except UserError:
        return model
    if not folder.is_dir():
        return model
    return files_digest(sorted(path for path in folder.iterdir() if path.is_file()), names=True)


def _place(record: Record) -> None:
    """Sort the candidates by their mean place over the scores, the quicker first where it is the same."""
    import numpy as np

    from hf_ft.heads import agreement, ranks

    rows = [row for row in record["candidates"] if "scores" in row]
    scores = {name: [row["scores"][name] for row in rows] for name in rows[0]["scores"]}
    places = {name: ranks(values) for name, values in scores.items()}
    for i, row in enumerate(rows):
        row["ranks"] = {name: float(found[i]) for name, found in places.items()}
        row["mean_rank"] = float(np.mean(list(row["ranks"].values())))
    rows.sort(key=lambda row: (row["mean_rank"], row["ms_per_example"]))
    record["candidates"] = [*rows, *(row for row in record["candidates"] if "reason" in row)]
    record["metric"], record["baseline"] = rows[0]["metric"], rows[0]["baseline"]
    record["agreement"] = [{"scores": list(pair), "tau": tau} for pair, tau in agreement(scores).items()]


# --- Confirming -------------------------------------------------------------------------------------------------------


def _confirm(
    names: Mapping[str, str],
    count: int,
    layers: Layers,
    base: Settings,
    out: Path,
    record: Record,
    finetune: Finetune,
) -> None:
    """Fine-tune the first of the candidates named now and write what they score on validation into their rows.

    Raises:
        UserError: the folder holds runs with other settings.
    """
    every = {*vars(base.config), *base.training}
    training = _chosen(base, every - OF_SCORES) | {"method": str(base.config.method)}
    _same(record.setdefault("training", training), training, out)
    models = {name: model for model, name in names.items()}
    rows = [row for row in record["candidates"] if "scores" in row and row["name"] in models]
    for row in rows[:count]:
        row["confirmed"] = _trained(models[row["name"]], row, layers, out, finetune)
        _write(out, record)


def _compare_with_confirmed(record: Record, splits: Splits) -> None:
    """Kendall's tau of each score with what fine-tuning gave, where two candidates or more were fine-tuned."""
    from hf_ft.heads import tau

    done = [row for row in record["candidates"] if "value" in row.get("confirmed", {})]
    if len(done) < 2:
        return
    better = splits.target.higher_is_better(done[0]["confirmed"]["metric"])
    truth = [row["confirmed"]["value"] * (1 if better else -1) for row in done]
    record["agreement_with_confirmed"] = {
        name: tau([row["scores"][name] for row in done], truth) for name in done[0]["scores"]
    }


def _trained(model: str, row: Record, layers: Layers, out: Path, finetune: Finetune) -> Record:
    """The score of a fine-tuned model on validation; the reason where it could not be trained."""
    name, weights = row["name"], text_digest(row["identity"])[:8]
    folder = out / "confirm" / (re.sub(r"[^\w.-]+", "_", name) + f"-{weights}")  # other weights may have had the name
    try:
        if (folder / "run.json").is_file():
            run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        else:
            print(f"\nFine-tuning {name}\n", flush=True)
            run = finetune(_settings(layers, model, folder))
    except Exception as error:  # out of memory, a kernel that is missing: the others can go on
        if not isinstance(error, UserError):
            traceback.print_exc()  # the reason in the table says what happened, not where
        return {"reason": _reason(error, model, name)}
    seconds = round(sum(stage["seconds"] for stage in run["stages"]), 1)
    return {"metric": run["metric"], **run["metrics"]["validation"][run["metric"]], "seconds": seconds}
