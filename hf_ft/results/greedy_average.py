"""The average of finished runs: which of them join, and the run that the result is scored and saved as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_ft.data import Splits, load_splits, with_truncation
from hf_ft.environment import CardFacts, Stop
from hf_ft.errors import UserError
from hf_ft.evaluation import load_folder, predict_outputs, score
from hf_ft.models import DepthGroups, ImageSize, LoadReport, depth_groups, has_statistics, scale_of
from hf_ft.records import RunSoupRecord, SoupMember
from hf_ft.results.finetune_result import FinetuneResult
from hf_ft.results.saving import save
from hf_ft.results.soup_members import Member
from hf_ft.settings import Settings
from hf_ft.storage import output_folder
from hf_ft.training import (
    Averaged,
    Run,
    StageResult,
    checkpoints,
    make_plan,
    recompute_statistics,
    statistics_trainer,
    writing,
)

Tensors = dict[str, torch.Tensor]


def average_runs(members: Sequence[Member], metric: str, settings: Settings, data: Any, stop: Stop) -> FinetuneResult:
    """Average runs greedily, score the result and save it.

    Args:
        members: The runs, best first.
        metric: Selects by the score on validation.
        settings: Those of the best run, with the output folder of the soup.
        data: Replaces the data that the settings name.
        stop: The signals that end the process.

    Raises:
        UserError: The data have changed, or a folder is damaged.
    """
    best = members[0]
    run = _run_of(best, settings, data)
    soup = _greedy(run, members, metric, stop)
    used = [member for member, told in zip(members, soup.members, strict=True) if told.joined]
    if any(member.frozen != best.frozen for member in used):
        for stage in run.stages:  # what froze in the best run trained in another
            stage.frozen_checked = 0
    run.averaged = Averaged(soup, tuple(member.folder for member in members), best.record)
    results = score(run)
    stop.check()
    with writing(run.output_dir, "The soup", "make it again"):
        checkpoints.remove(run.output_dir)
        output_folder.remove(run.output_dir)  # of a run that is replaced
        return save(run, results)


def _run_of(member: Member, settings: Settings, data: Any) -> Run:
    """A finished run as `score` and `save` take it, with its model.

    Raises:
        UserError: The data are not those of the run any more.
    """
    record, task, model, processor = load_folder(member.folder)
    config, args = settings.config, settings.arguments()
    splits = load_splits(config, args.seed, data=data)
    _check_data(splits, member)
    splits = with_truncation(splits, task, processor, config)
    loaded = _load_report(member, model)
    plan = make_plan(config, args, loaded.groups, len(splits.train))
    stages = [StageResult(**asdict(stage), checkpoint=None) for stage in record.stages]
    learning = splits.target.learning(scale_of(model), splits.train, splits.labels, config, args)
    run = Run(config, args, splits, plan, loaded, model, processor, record.selection_metric, stages, task, learning)
    run.default_metric = splits.target.default_metric_of(splits.train, splits.labels)
    run.chosen = record.freeze_depth
    return run


def _check_data(splits: Splits, member: Member) -> None:
    """Raise `UserError` unless splits are those that a run was trained on."""
    data = member.record.data
    if splits.fingerprint != data.fingerprint:
        raise UserError(
            f"The data of the run {member.folder} have changed: their fingerprint was {data.fingerprint[:12]}, and is "
            f"{splits.fingerprint[:12]} now.",
            option="dataset",
            hint="Pass the data of the runs with --dataset.",
        )


def _load_report(member: Member, model: PreTrainedModel) -> LoadReport:
    """What was known of the base model when the run loaded it, with the depth groups of the result."""
    base, proofs = member.record.model, member.record.proofs
    assert proofs.only_head_new is not None
    new, sized = set(proofs.only_head_new.new), proofs.image_size
    return LoadReport(
        source=base.name,
        hub_id=base.hub_id,
        commit=base.commit,
        digest=base.digest,
        new=tuple(proofs.only_head_new.new),
        loaded=proofs.only_head_new.loaded,
        groups=_groups(model, new),
        notes=tuple(base.notes),
        origin=base.origin,
        card=CardFacts(base.licence, base.licence_name, base.licence_link, tuple(base.languages)),
        image_size=ImageSize(**(asdict(sized) | {"resampled": tuple(sized.resampled)})) if sized else None,
    )


def _groups(model: PreTrainedModel, new: set[str]) -> DepthGroups:
    """The depth groups as found when the base model was loaded: all that was new belongs to the head."""
    groups = depth_groups(model)
    return groups if new <= set(groups.of_role("head")[0].parameters) else depth_groups(model, new)


def _greedy(run: Run, members: Sequence[Member], metric: str, stop: Stop) -> RunSoupRecord:
    """Leave the greedy soup of some runs, best first, in the model of the best one."""
    sign = 1 if run.splits.target.metrics[metric] else -1
    best_single = reached = _score(run, metric)
    told = [_told(members[0], metric, None, True)]
    live, changed = _tensors(run.model), set[str]()
    soup = {name: tensor.clone() for name, tensor in live.items()}
    print(
        f"soup     {len(members)} runs; {members[0].name} is the best: {metric} {reached:.4f} on validation", flush=True
    )
    with statistics_trainer(run) as trainer:
        for member in members[1:]:
            stop.check()
            other = _tensors(load_folder(member.folder)[2])
            norms = changed | _other_statistics(run.model, soup, other)
            _mix(live, soup, other, sum(one.joined for one in told))
            recompute_statistics(trainer, [run.model.get_submodule(name) for name in sorted(norms)])
            found = _score(run, metric)
            joins = sign * found >= sign * reached
            told.append(_told(member, metric, found, joins))
            said = "joins" if joins else "stays out"
            print(f"soup     {member.name} {said}: {metric} {found:.4f} with it, {reached:.4f} without", flush=True)
            if joins:
                reached, changed = found, norms
                soup = {name: tensor.clone() for name, tensor in live.items()}
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(soup[name])
    run.model.eval()
    return RunSoupRecord(metric, told, best_single, reached, len(changed))


def _told(member: Member, metric: str, tried: float | None, joined: bool) -> SoupMember:
    record = member.record
    seed, alone = record.settings["seed"], member.score(metric)
    return SoupMember(member.name, record.method, seed, alone, tried, joined, round(member.seconds, 3))


def _score(run: Run, metric: str) -> float:
    """The score of the model on validation, as the result of a run is scored."""
    splits = run.splits
    outputs = predict_outputs(run.model, run.processor, run.task, splits.validation, run.config, run.args)
    references = splits.validation["labels"][:]
    threshold = splits.target.fit(outputs, references, run.config.threshold)
    return float(splits.target.score(outputs, references, splits.labels, threshold)[metric].value)


def _tensors(model: nn.Module) -> Tensors:
    """The parameters and buffers of a model, shared ones once."""
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def _other_statistics(model: nn.Module, soup: Tensors, other: Tensors) -> set[str]:
    """The normalisation layers whose running statistics differ, which trained: frozen ones keep the base model's."""
    layers = (name for name, module in model.named_modules() if has_statistics(module))
    names = [(layer, f"{layer}.{buffer}") for layer in layers for buffer in ("running_mean", "running_var")]
    return {layer for layer, name in names if not torch.equal(soup[name].cpu(), other[name].cpu())}


@torch.no_grad()
def _mix(live: Tensors, soup: Tensors, other: Tensors, size: int) -> None:
    """Make the live tensors the average of a soup of `size` runs and another run; equal tensors stay as they are."""
    for name, tensor in live.items():
        if tensor.is_floating_point():
            tensor.copy_(torch.lerp(soup[name].to(tensor), other[name].to(tensor), 1 / (size + 1)))
