"""Which source model: candidates are scored on the user's data before training, and the best few are fine-tuned.

No score is the truth, so there are three, their agreement, and the cost of each candidate. Scoring a candidate is a
trial, and so is fine-tuning it: the same command again continues, and candidates of earlier calls stay in the ranking.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft import __version__
from hf_ft.errors import UserError
from hf_ft.experiments.candidate_names import identity_of, location_of, short_names
from hf_ft.experiments.experiment_engine import Experiment, one_line
from hf_ft.records import (
    Agreement,
    Candidate,
    CandidateScores,
    Confirmation,
    Machine,
    RankingData,
    RankingRecord,
    RunRecord,
    read_record,
)
from hf_ft.reports import ranking_summary as report
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
    split_revisions,
)
from hf_ft.storage import as_json, output_folder, text_digest

if TYPE_CHECKING:
    from hf_ft.data import Splits

Layers = tuple[tuple[str, Mapping[str, Any]], ...]
Finetune = Callable[[Settings], object]

MAX_EXAMPLES = 2000
"""Training examples that are scored by default."""
ELSEWHERE = {
    *("model", "dataset", "output_dir", "overwrite_output_dir", "resume_from_checkpoint"),
    *("cache", "cache_dir", "cache_max_gb", "report_to", "disable_tqdm"),
}
"""Settings that change neither scores nor trained models, or are in the record by themselves."""
OF_SCORES = {
    "task",
    *ModelSettings.options(),
    *DataSettings.options(),
    *("max_length", "image_size", "seed", "bf16", "fp16", "cache_dtype"),
}
"""Settings that scores depend on; the others apply to `--confirm` alone."""
SECTIONS_OF_SCORES = tuple(section for section in SECTIONS if section not in (ModelSettings, OutputSettings))
"""What is checked before any model is scored: all settings but those of one model and one run."""


def named_models(models: Sequence[str], listed: str | None, size: str | None, layers: Layers) -> list[str]:
    """Return the candidates of a command line: named, listed in a file, or of a size in the list of `hf-ft models`.

    Raises:
        UserError: No such file or size, or a size beside names.
    """
    from hf_ft.models import sources_for

    found = [*models, *(_lines(listed) if listed else [])]
    if size is None:
        return found
    if found:
        raise UserError("Pass either models or --size, which takes those of the list that hf-ft models prints.")
    tasks = [normalise(layer, source).get("task") for source, layer in layers]
    return [source.name for source in sources_for(next((task for task in reversed(tasks) if task), None), size)]


def _lines(path: str) -> list[str]:
    """The names in a file, one per line; text after # is a comment."""
    check_path(str(Path(path).expanduser().absolute()), "list of models")
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read: {error}.", option="list", hint="--list takes a text file with one model per line."
        ) from None
    return [name for line in text.splitlines() if (name := line.partition("#")[0].strip())]


def rank_models(models: Sequence[str], confirm: int, layers: Layers, finetune: Finetune) -> RankingRecord:
    """Rank source models, print the table and return the record; see `hf_ft.rank`.

    Args:
        models: Hub ids, folders or `builtin`.
        confirm: How many of the best to fine-tune.
        layers: Layers of settings, as `hf_ft.settings.build` takes them.
        finetune: Trains a candidate; passed in, since the function that does it stands above this room.

    Raises:
        UserError: As `rank`.
    """
    if not all(model.strip() for model in models):
        raise UserError("The name of a model is empty.", hint="Pass Hub ids, folders or builtin.")
    names = short_names(models)
    if len(names) < 2:
        found = f"only '{next(iter(names))}' was passed" if names else "none was passed"
        raise UserError(f"A ranking needs at least two different models, and {found}.", hint="See hf-ft models.")
    if confirm < 0:
        raise UserError(f"--confirm must be at least 0, not {confirm}.", option="confirm", value=confirm)
    base, out = _base(layers)
    with output_folder.locked(out, RankingRecord.KIND):
        return Ranking(names, base, out, layers, finetune).run(confirm)


def _base(layers: Layers) -> tuple[Settings, Path]:
    """The settings of scoring, and the output folder.

    Raises:
        UserError: Wrong settings, or a folder that holds something else than a ranking.
    """
    explicit: dict[str, Any] = {}
    for source, layer in layers:
        explicit |= {name: value for name, value in normalise(layer, source).items() if value is not None}
    if "model" in explicit:
        raise UserError(
            "`--model` is not supported by hf-ft rank.",
            option="model",
            hint="List the models before the first option.",
        )
    if explicit.get("cache") == "off":
        raise UserError("A ranking reads features from the cache.", option="cache", hint="Leave out --cache off.")
    if not explicit.get("output_dir"):
        raise UserError("`--output_dir` is missing.", option="output_dir", hint="Set it to a folder for the result.")
    out = Path(explicit["output_dir"]).expanduser().absolute()
    settings = build(*layers, sections=SECTIONS_OF_SCORES)
    output_folder.check_ours(out, RankingRecord.KIND)
    return settings, out


def _settings(layers: Layers, model: str, folder: Path) -> Settings:
    """The settings of the run of one model in a folder; a run that is there is resumed."""
    own: dict[str, Any] = {"model": model, "output_dir": str(folder)}
    if folder.is_dir():
        own["resume_from_checkpoint"] = True
    return build(*layers, ("the ranking", own))


def _explicit(settings: Settings, names: set[str]) -> dict[str, Any]:
    """The explicit options among these settings, as JSON gives them back."""
    every = {**vars(settings.config), **settings.training}
    found: dict[str, Any] = as_json(
        {name: every[name] for name in sorted(settings.config.explicit & names - ELSEWHERE)}
    )
    return found


class Ranking(Experiment[RankingRecord]):
    """A ranking in its output folder.

    Args:
        names: Each model -> its name in the table.
        base: Settings of scoring.
        folder: The output folder.
        layers: Layers of settings of the runs of `--confirm`.
        finetune: Trains a candidate.
    """

    def __init__(
        self, names: Mapping[str, str], base: Settings, folder: Path, layers: Layers, finetune: Finetune
    ) -> None:
        super().__init__(folder, RankingRecord)
        self.names, self.base, self.layers, self.finetune = names, base, layers, finetune
        self.args, self.config = base.arguments(), _scoring(base.config)

    def run(self, confirm: int) -> RankingRecord:
        """Score the candidates, and fine-tune the first `confirm` of them; prints progress and result."""
        from hf_ft.data import load_splits

        splits = load_splits(self.config, self.args.seed)
        record = self._record(splits)
        earlier = self.begin(record, bool(self.base.config.overwrite_output_dir))
        print(report.introduction(record), flush=True)
        record.training = earlier.training if earlier else None
        self._score_all(splits, record, earlier.candidates if earlier else [])
        _order(record)
        if confirm:  # fine-tuning takes long: the ranking is complete before it starts
            record.confirming = confirm
            self._finish(record, splits)
            record.confirming = 0
            self._confirm(confirm, record)
        self._finish(record, splits)
        print(f"The ranking is in {self.root}")
        return record

    def discard(self) -> None:
        """Remove the files of the ranking with its runs, and nothing else from its folder."""
        from hf_ft.training import discard_model

        super().discard()
        for folder in sorted((self.root / "confirm").glob("*")):
            discard_model(folder)

    def _record(self, splits: Splits) -> RankingRecord:
        from hf_ft.environment import machine, versions
        from hf_ft.training import public_name

        data = RankingData(
            name=public_name(self.base.config.dataset),
            fingerprint=splits.fingerprint,
            examples=len(splits.train),
            predicts=splits.target.describe(splits.labels),
            notes=[note for note in splits.notes if note.startswith("train")],
        )
        return RankingRecord(
            schema_version=RankingRecord.SCHEMA,
            hf_ft=__version__,
            date=time.strftime("%Y-%m-%d"),
            task=str(self.base.config.task),
            settings=_explicit(self.base, OF_SCORES),
            data=data,
            machine=Machine(**machine()),
            versions=versions(),
        )

    def _finish(self, record: RankingRecord, splits: Splits) -> None:
        _compare_with_confirmed(record, splits)
        self.finish(record)
        print("\n" + report.summary(record), flush=True)

    # Scoring.

    def _score_all(self, splits: Splits, record: RankingRecord, earlier: Sequence[Candidate]) -> None:
        """Score each candidate that has no scores yet; those of earlier calls come after those named now.

        A candidate that has other weights now replaces its earlier row.

        Raises:
            UserError: Fewer than two could be scored.
        """
        confirmed = {row.identity: row.confirmed for row in earlier if row.confirmed and not row.confirmed.error}
        rows: list[Candidate] = []
        for number, (model, name) in enumerate(self.names.items(), start=1):
            identity = identity_of(model)
            known = self.result(_trial("score", identity), CandidateScores)
            scores = known or self._score(model, name, identity, splits)
            row = Candidate(**vars(scores), name=name, identity=identity, location=location_of(model))
            row.confirmed = confirmed.get(identity)
            rows.append(row)
            record.candidates = [*rows, *_others(earlier, rows)]
            self.save(record)
            line = "as before" if known else scores.error or f"{scores.seconds:.0f} s"
            print(f"{number}/{len(self.names)}  {name}: {line}", flush=True)
        failed = [row for row in rows if row.error]
        if (done := len(rows) - len(failed)) < 2:
            reasons = " ".join(f"{row.name}: {row.error.rstrip('.')}." for row in failed)
            raise UserError(f"Only {done} of {len(rows)} models could be scored, and a ranking needs two. {reasons}")
        record.candidates = [*rows, *(row for row in _others(earlier, rows) if row.scores)]

    def _score(self, model: str, name: str, identity: str, splits: Splits) -> CandidateScores:
        from hf_ft.experiments.candidate_scores import score_candidate

        def work() -> tuple[CandidateScores, None]:
            check_path(model, "model")
            named = split_revisions({"model": model})
            return score_candidate(dataclasses.replace(self.config, **named), self.args, splits), None

        return self.run_trial(
            _trial("score", identity), work, lambda error: CandidateScores(error=_reason(error, model, name))
        )

    # Confirming.

    def _confirm(self, count: int, record: RankingRecord) -> None:
        """Fine-tune the first of the candidates named now; their scores on validation go into their rows.

        Raises:
            UserError: The folder holds runs with other settings.
        """
        every = {*vars(self.base.config), *self.base.training}
        training = _explicit(self.base, every - OF_SCORES) | {"method": str(self.base.config.method)}
        shown = [
            {name: (value, f"'{value}'") for name, value in one.items()}
            for one in (record.training or training, training)
        ]
        self.check_same(*shown)
        record.training = training
        models = {name: model for model, name in self.names.items()}
        for row in [row for row in record.scored if row.name in models][:count]:
            row.confirmed = self._finetuned(models[row.name], row)
            self.save(record)

    def _finetuned(self, model: str, row: Candidate) -> Confirmation:
        """The validation score of a fine-tuned candidate; a run of its own, in `confirm/`."""
        stem = re.sub(r"[^\w.-]+", "_", row.name)
        folder = self.root / "confirm" / f"{stem}-{text_digest(row.identity)[:8]}"  # other weights, another folder
        trial = _trial("confirm", row.identity)
        known = self.result(trial, Confirmation)
        if known and (folder / RunRecord.FILE).is_file():
            return known

        def work() -> tuple[Confirmation, None]:
            print(f"\nFine-tuning {row.name}\n", flush=True)
            self.finetune(_settings(self.layers, model, folder))
            run = read_record(folder, RunRecord)
            seconds = round(sum(stage.seconds for stage in run.stages), 1)
            score = run.metrics["validation"][run.metric]
            return Confirmation(metric=run.metric, seconds=seconds, **vars(score)), None

        return self.run_trial(trial, work, lambda error: Confirmation(error=_reason(error, model, row.name)), log=False)


def _trial(what: str, identity: str) -> str:
    return f"{what}-{text_digest(identity)[:12]}"


def _scoring(config: Config) -> Config:
    """The settings with which data are read for scoring."""
    if not {"max_train_examples", "examples_per_class"} & config.explicit:
        config = dataclasses.replace(config, max_train_examples=MAX_EXAMPLES)
    # Scores read train alone; with one example each, the images of the other splits are not decoded in vain.
    return dataclasses.replace(config, max_eval_examples=1)


def _reason(error: Exception, model: str, name: str) -> str:
    """What went wrong on one line, with the name of a model in place of its path."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return (kind + one_line(error)).replace(model, name)


def _others(earlier: Sequence[Candidate], rows: Sequence[Candidate]) -> list[Candidate]:
    """The rows of an earlier call that none of these replaces, by weights or by location.

    A row whose name belongs to another model now gets the beginning of its identity added.
    """
    known = {key for row in rows for key in (row.identity, row.location)}
    names = {row.name for row in rows}
    others = []
    for row in earlier:
        if not known & {row.identity, row.location}:
            name = f"{row.name} ({row.identity[:6]})" if row.name in names else row.name
            failed = row.confirmed is not None and bool(row.confirmed.error)
            others.append(dataclasses.replace(row, name=name, confirmed=None if failed else row.confirmed))
    return others


def _order(record: RankingRecord) -> None:
    """Sort the candidates by their mean rank over the scores, the faster first among equals; adds the agreement."""
    import numpy as np

    from hf_ft.heads import agreement, ranks

    rows = record.scored
    scores = {name: [row.scores[name] for row in rows] for name in rows[0].scores}
    places = {name: ranks(values) for name, values in scores.items()}
    for i, row in enumerate(rows):
        row.ranks = {name: float(found[i]) for name, found in places.items()}
        row.mean_rank = float(np.mean(list(row.ranks.values())))
    rows.sort(key=lambda row: (row.mean_rank, row.ms_per_example))
    record.candidates = [*rows, *(row for row in record.candidates if row.error)]
    record.metric, record.baseline = rows[0].metric, rows[0].baseline
    record.agreement = [Agreement(list(pair), tau) for pair, tau in agreement(scores).items()]


def _compare_with_confirmed(record: RankingRecord, splits: Splits) -> None:
    """Add Kendall's tau of each score with fine-tuning, where two candidates or more were fine-tuned."""
    from hf_ft.heads import tau

    done = [(row, row.confirmed) for row in record.scored if row.confirmed and not row.confirmed.error]
    if len(done) < 2:
        return
    sign = 1 if splits.target.higher_is_better(done[0][1].metric) else -1
    truth = [sign * confirmed.value for _, confirmed in done]
    record.agreement_with_confirmed = {
        name: tau([row.scores[name] for row, _ in done], truth) for name in done[0][0].scores
    }
