"""`hf-ft train --from_run OUT/run.json`: a run again, from its record, checked and compared with it; without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft import __version__
from hf_ft.errors import UserError, shorten, split_argument
from hf_ft.records import (
    ComparisonRecord,
    FreezeDepthRecord,
    Origin,
    RankingRecord,
    RepeatRecord,
    RunRecord,
    read_origin,
    read_record,
)
from hf_ft.settings import IN_MEMORY, DataSettings, Settings, check_path, normalise

if TYPE_CHECKING:
    from hf_ft.data import Splits
    from hf_ft.models import LoadReport
    from hf_ft.training import Forms

EXPERIMENTS = {record.FILE: record.TITLE for record in (ComparisonRecord, FreezeDepthRecord, RankingRecord)}
BESIDE = ("dataset_revision", "trust_remote_code", "allow_pickle", "per_device_eval_batch_size")
"""Settings that a run may change when it is resumed, so that `RepeatRecord` has only their names."""
OF_DATA = frozenset({*DataSettings.options(), "seed"}) - {"dataset", "dataset_revision", "task"}
"""Settings by which other examples are used, so that the fingerprint of the data is another one."""
Layers = Sequence[tuple[str, Mapping[str, Any]]]


@dataclass
class Repetition:
    """A run that is repeated.

    Args:
        folder: Its output folder.
        kept: The settings of the run, as a layer for `hf_ft.settings.build`.
        said: The names of the settings that the user set now.
        changed: Those of them that are not as in the run; known once all settings are.
    """

    folder: Path
    record: RunRecord
    repeat: RepeatRecord
    kept: Mapping[str, Any]
    said: frozenset[str]
    changed: list[str] = field(default_factory=list)

    @property
    def layer(self) -> tuple[str, Mapping[str, Any]]:
        """The settings of the run, and where they came from."""
        return str(self.folder / RunRecord.FILE), self.kept

    @property
    def forms(self) -> Forms:
        """How the steps of each stage ran, and under "" the predictions for the scores."""
        from hf_ft.autotune import Variant

        stages = {stage.name: stage.autotune for stage in self.record.stages} | {"": self.record.autotune}
        return {
            name: {one.what: Variant(one.memory_format, one.attention).changes() for one in found}
            for name, found in stages.items()
        }

    def check_settings(self, settings: Settings) -> None:
        """Print what the user has set otherwise than the run.

        Raises:
            UserError: A default is another one now, which would give another result without a word.
        """
        from hf_ft.training import repeatable_settings

        before, now = self.repeat.settings, repeatable_settings(settings.config)
        differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        self.changed = [name for name in differing if name in self.said]
        if differing and not self.changed and before.get("method") != "auto":  # the search set other defaults
            listed = shorten((f"{name} was {before.get(name)}, now {now.get(name)}" for name in differing), 8)
            raise UserError(
                f"The defaults of hf_ft {__version__} are not those of the run in {self.folder}: {listed}.",
                option=differing[0],
                hint="Set them as they were, or use the hf_ft that wrote the record.",
            )
        if self.changed:
            listed = ", ".join(f"{name} was {before.get(name)}, now {now.get(name)}" for name in self.changed)
            print(f"repeat   settings that differ from the run in {self.folder}: {listed}")

    def check_data(self, splits: Splits) -> None:
        """Check that the data are those of the run, unless the user chose other examples of them.

        Raises:
            UserError: They are not, with what is known to differ.
        """
        if chosen := [name for name in self.changed if name in OF_DATA]:
            print(f"repeat   the data are not compared with those of the run, because --{chosen[0]} differs")
            return
        data = self.record.data
        if splits.fingerprint == data.fingerprint:
            return
        parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
        sizes = {name: len(split) for name, split in parts.items() if split is not None}
        found = [
            f"{name} has {sizes.get(name, 0):,} examples in place of {data.sizes.get(name, 0):,}"
            for name in parts
            if sizes.get(name, 0) != data.sizes.get(name, 0)
        ]
        if list(splits.labels) != data.labels:
            found.append(f"the labels are {shorten(splits.labels)} in place of {shorten(data.labels)}")
        raise UserError(
            f"The data are not those of the run in {self.folder}: {'; '.join(found) or 'some examples are others'} "
            f"(fingerprint {splits.fingerprint[:12]} in place of {data.fingerprint[:12]}).",
            option="dataset",
            hint="Say with --dataset where the data of the run are.",
        )

    def check_model(self, loaded: LoadReport) -> None:
        """Check that the base model is that of the run, by commit and by the digest of its weights.

        Raises:
            UserError: It is not.
        """
        model = self.record.model
        for what, then, now in (("commit", model.commit, loaded.commit), ("weights", model.digest, loaded.digest)):
            if then is not None and then != now:
                raise UserError(
                    f"The base model {loaded.source} is not that of the run in {self.folder}: {what} {str(now)[:12]} "
                    f"in place of {then[:12]}.",
                    option="model",
                    hint="Say with --model where the model of the run is.",
                )

    def surroundings(self) -> list[str]:
        """Return in which versions and machine this process differs from that of the run; rounding may differ then."""
        import torch

        from hf_ft.environment import machine, processor_name, versions

        pairs: list[tuple[str, Any, Any]] = [("hf_ft", self.record.hf_ft, __version__)]
        pairs += [(name, then, versions().get(name)) for name, then in self.record.versions.items()]
        then, now = vars(self.record.machine), machine()
        pairs += [(name, then[name], now[name]) for name in ("device", "processes", "python", "system")]
        pairs += [("processor", self.repeat.processor, processor_name())]
        pairs += [("threads", self.repeat.threads, torch.get_num_threads())]
        return [f"{name} was {before}, now {after}" for name, before, after in pairs if before != after]

    def verdict(self, result: Mapping[str, Any]) -> list[str]:
        """Return lines that say whether a new record is that of the same weights, and what differs if not."""
        repeated = (result.get("repeat") or {}).get("weights")
        if repeated == self.repeat.weights:
            return [f"repeat   repeated to the bit: the weights are those of {self.folder} (SHA-256 {repeated[:12]})"]
        split = "test" if "test" in self.record.metrics else "validation"
        metric = self.record.metric
        before = self.record.metrics[split][metric].value
        after = result["metrics"].get(split, {}).get(metric, {}).get("value")
        shown = "no such score" if after is None else f"{after:.4f}"
        differing = [*(f"--{name}" for name in self.changed), *self.surroundings()]
        return [
            f"repeat   not repeated to the bit: the weights have the SHA-256 {str(repeated)[:12]} in place of "
            f"{self.repeat.weights[:12]}",
            f"repeat   {metric} on {split}: {before:.4f} in {self.folder}, now {shown}",
            f"repeat   known differences: {'; '.join(differing) if differing else 'none'}",
        ]


def read_repetition(path: str, layers: Layers) -> Repetition:
    """Read the run that is to be repeated.

    Args:
        path: Its `run.json`, or its output folder.
        layers: What the user sets besides, which wins.

    Raises:
        UserError: No such record, one of another kind or of an older schema, one that lacks what repeating takes, or a
            run whose model or data it does not say.
    """
    folder = _folder(path)
    record = read_record(folder, RunRecord)
    repeat = record.repeat
    if record.soup is not None:
        raise _refused(folder, "is an average of several runs", "Repeat these: `hf-ft soup` averages them.")
    if repeat is None:
        raise _refused(folder, "does not say with which settings it was made", "Train with this version of hf_ft.")
    if record.extensions:
        used = ", ".join(record.extensions)
        raise _refused(folder, f"used own code ({used})", "Call hf_ft.finetune again with the same code.")
    merged: dict[str, Any] = {}
    for source, layer in layers:
        merged |= normalise(layer, source)
    kept = {name: repeat.settings[name] for name in repeat.explicit if name in repeat.settings}
    kept |= {name: record.settings[name] for name in BESIDE if name in repeat.explicit and name in record.settings}
    if kept.get("method") == "auto":  # the search is not repeated
        kept["method"] = record.method
    origin = read_origin(folder)
    kept |= _source("model", record.settings["model"], record.model.hub_id, origin, folder, merged)
    kept |= _source("dataset", record.settings["dataset"], record.data.hub_id, origin, folder, merged)
    if record.model.hub_id is not None and record.model.commit is not None and "model" not in merged:
        kept["model_revision"] = record.model.commit
    kept["output_dir"] = str(folder.with_name(f"{folder.resolve().name}-repeated"))
    return Repetition(folder, record, repeat, kept, frozenset(merged) & frozenset(kept | repeat.settings))


def _folder(path: str) -> Path:
    """The output folder that a user named, by itself or by its record.

    Raises:
        UserError: There is none, or the file is another record.
    """
    check_path(os.path.abspath(os.path.expanduser(path)), "run")
    place = Path(path).expanduser()
    if place.is_dir():
        return place
    if place.name != RunRecord.FILE:
        what = f"a {EXPERIMENTS[place.name]}" if place.name in EXPERIMENTS else f"no {RunRecord.FILE}"
        raise UserError(
            f"--from_run repeats a training run, and {path} is {what}.",
            option="from_run",
            value=path,
            hint=f"Name the {RunRecord.FILE} of a run.",
        )
    return place.parent


def _refused(folder: Path, why: str, hint: str) -> UserError:
    return UserError(f"The run in {folder} {why}.", option="from_run", value=str(folder), hint=hint)


def _source(
    kind: str, name: str, hub_id: str | None, origin: Origin | None, folder: Path, merged: Mapping[str, Any]
) -> dict[str, str]:
    """Where the model or the data of a run are, unless the user says it; `run.json` has no local paths.

    Raises:
        UserError: It is not known, or it is not there any more.
    """
    if merged.get(kind):
        return {}
    if hub_id is not None or (kind == "model" and split_argument(name)[0] in ("builtin", "timm")):
        return {kind: name}
    place = None if origin is None else origin.located(getattr(origin, kind))
    if place is None or place == IN_MEMORY or not os.path.exists(place):
        lost = f"were in {place}, and are not there any more" if place else f"are a local path called '{name}'"
        lost = "were in memory" if place == IN_MEMORY else lost
        what = "weights of the base model" if kind == "model" else "data"
        raise UserError(f"The {what} of the run in {folder} {lost}.", option=kind, hint=f"Say where with --{kind}.")
    return {kind: place}
