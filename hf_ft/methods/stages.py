"""Stages: what trains in which order and at which rate, by selectors, and applied to the depth groups of a model.

A `Stage` says what trains; everything else is frozen. `plan_stages` applies stages to depth groups: each becomes an
`AppliedStage`, a list of (group, setting) pairs, and all of them together a `Plan`. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hf_ft.errors import UserError
from hf_ft.methods.selectors import Group, choose_groups, choose_parameters

CONTRASTIVE = "contrastive"
OBJECTIVES = (CONTRASTIVE,)
"""What a stage can learn in place of the task."""


@dataclass(frozen=True)
class Setting:
    """What happens to one depth group in one stage: mode `train`, `adapt` or `frozen`, and its learning rate.

    `only` names the parameters that train where it is not the whole group; the rest of it is frozen.
    """

    mode: str
    rate: float = 0.0
    only: frozenset[str] | None = None

    @property
    def frozen(self) -> bool:
        """Whether nothing in the group trains or is adapted."""
        return self.mode == "frozen"

    @property
    def whole(self) -> bool:
        """Whether everything in the group trains, running statistics included."""
        return self.mode == "train" and self.only is None

    def trains(self, parameter: str) -> bool:
        """Whether a parameter of the group trains itself (adapters on it do not count)."""
        return self.mode == "train" and (self.only is None or parameter in self.only)

    def describe(self, group: Group) -> str:
        """The setting in words: `frozen`, `adapt`, `train`, or `train 4 of 16` parameters."""
        return self.mode if self.only is None else f"{self.mode} {len(self.only)} of {len(group.parameters)}"


@dataclass(frozen=True)
class Stage:
    """One stage of a method: what trains, its share of the epochs, its scale of the learning rate.

    Args:
        name: Name of the stage, also of its folder of checkpoints.
        trains: Selector of what trains (`all`, `last_n:4`, `bitfit`), see `hf_ft.methods.selectors`.
        groups: Mode of each depth group by name, in place of a selector.
        share: Share of the epochs, relative to the other stages.
        scale: Factor on the run's learning rate.
        learning_rate: The stage's own rate, in place of the run's times `scale`.
        head_lr_multiplier: The stage's own; None takes the run's, as for the next three.
        layer_decay: Factor on the rate for each block further from the head.
        scheduler: Learning rate schedule.
        warmup: Warmup steps, or below 1 the fraction of steps.
        peft: PEFT method whose adapters the chosen blocks get.
        peft_options: Options of that PEFT method.
        objective: What the stage learns: None is the task, `contrastive` that features of one class are alike. The
            head's last layer takes no part in the latter.
    """

    name: str
    trains: str = "all"
    groups: Mapping[str, str] | None = None
    share: float = 1.0
    scale: float = 1.0
    learning_rate: float | None = None
    head_lr_multiplier: float | None = None
    layer_decay: float | None = None
    scheduler: str | None = None
    warmup: float | None = None
    peft: str | None = None
    peft_options: Mapping[str, Any] = field(default_factory=dict)
    objective: str | None = None

    def limited(self, top: str) -> Stage:
        """The stage limited to the top blocks, as in `last_n:4`: it adapts these alone, or trains parts of these."""
        return replace(self, trains=top if self.peft else f"{self.trains}@{top}")


@dataclass(frozen=True)
class AppliedStage:
    """A stage applied to a model: (group, setting) pairs from input to output, one for each depth group.

    Iterate over it for the pairs. `scheduler` and `warmup` are None where the run's own hold.

    Args:
        name: Name of the stage.
        epochs: Epochs of the stage; `max_steps` replaces them where it is positive.
        rate: Learning rate of the highest groups below the head.
        pairs: Each depth group with its setting.
        max_steps: Optimizer steps, -1 where epochs count.
        scheduler: Learning rate schedule of the stage.
        warmup: Warmup steps, or below 1 the fraction of steps.
        peft: PEFT method of the adapted groups.
        peft_options: Its options.
        configures_steps: The stage itself names a rate or a schedule, so it trains by steps even where its head could
            be solved.
        objective: What the stage learns, as in `Stage`.
    """

    name: str
    epochs: float
    rate: float
    pairs: tuple[tuple[Group, Setting], ...]
    max_steps: int = -1
    scheduler: str | None = None
    warmup: float | None = None
    peft: str | None = None
    peft_options: Mapping[str, Any] = field(default_factory=dict)
    configures_steps: bool = False
    objective: str | None = None

    def __iter__(self) -> Iterator[tuple[Group, Setting]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, name: str) -> Setting:
        """The setting of the group of that name."""
        return next(setting for group, setting in self if group.name == name)

    @property
    def groups(self) -> tuple[Group, ...]:
        """All depth groups, in order."""
        return tuple(group for group, _ in self)

    @property
    def used(self) -> tuple[tuple[Group, Setting], ...]:
        """The pairs of the groups that the model uses, those of role `unused` left out."""
        return tuple((group, setting) for group, setting in self if group.role != "unused")

    @property
    def frozen(self) -> tuple[Group, ...]:
        """The groups in which nothing trains."""
        return tuple(group for group, setting in self if setting.frozen)

    @property
    def trainable(self) -> tuple[Group, ...]:
        """The groups of which something trains, in whole, in part or by adapters."""
        return tuple(group for group, setting in self if not setting.frozen)

    @property
    def adapted(self) -> tuple[Group, ...]:
        """The groups that get adapters."""
        return tuple(group for group, setting in self if setting.mode == "adapt")

    @property
    def trains_everything(self) -> bool:
        """Whether every group that the model uses trains whole."""
        return all(setting.whole for _, setting in self.used)

    @property
    def trains_head_alone(self) -> bool:
        """Whether the head trains and nothing else does: a linear probe, where the head is linear."""
        return {group.role for group in self.trainable} == {"head"}

    @property
    def frozen_depth(self) -> int:
        """How many groups, counted from the input, are frozen before the first that is not; `unused` do not count."""
        modes = [setting.frozen for _, setting in self.used]
        return modes.index(False) if False in modes else len(modes)

    @property
    def highest_rate(self) -> float:
        """The highest learning rate of any group."""
        return max(setting.rate for _, setting in self)

    @property
    def frozen_parameters(self) -> set[str]:
        """Names of the parameters that do not train themselves."""
        return {name for group, setting in self for name in group.parameters if not setting.trains(name)}

    @property
    def frozen_tensors(self) -> set[str]:
        """`frozen_parameters`, and the buffers of all groups that do not train whole."""
        return self.frozen_parameters | {name for group, setting in self if not setting.whole for name in group.buffers}

    @property
    def trained_parameters(self) -> list[str]:
        """Names of the parameters that train themselves, from input to output."""
        return [name for group, setting in self for name in group.parameters if setting.trains(name)]

    def replaces(self, earlier: AppliedStage) -> bool:
        """Whether this stage trains whole whatever an earlier stage of the same plan changed."""
        return all(self[group.name].whole for group in earlier.trainable)


@dataclass(frozen=True)
class Plan:
    """What a run does to a model: the stages of a method, applied to its depth groups.

    `learning_rate` is the rate of which those of the stages are multiples.
    """

    method: str
    stages: tuple[AppliedStage, ...]
    learning_rate: float = 0.0

    def combined(self, name: str = "all stages", epochs: float = 1.0) -> AppliedStage:
        """One stage in which a group is frozen only where no stage trains or adapts it."""
        pairs = []
        for group in self.stages[0].groups:
            settings = [stage[group.name] for stage in self.stages]
            pairs.append((group, next((setting for setting in settings if not setting.frozen), settings[0])))
        return AppliedStage(name, epochs, 0.0, tuple(pairs))


def plan_stages(
    method: str,
    stages: Sequence[Stage],
    groups: Sequence[Group],
    epochs: float,
    learning_rate: float,
    head_lr_multiplier: float = 1.0,
    layer_decay: float | None = None,
    max_steps: int = -1,
    new_head: bool = True,
) -> Plan:
    """Apply stages to the depth groups of a model.

    The rate of a group is `learning_rate` x the stage's scale x `layer_decay` to the power of its distance from
    the top, and for the head `head_lr_multiplier` instead of the decay; a stage that trains the head alone has
    nothing to be higher than, so there the head's rate is `learning_rate` x the multiplier as well.

    Raises:
        UserError: stages that the model cannot take, or that never train the head although it is new.
    """
    shares = [stage.share for stage in stages]
    limits = [max(1, round(part)) for part in split_epochs(max_steps, shares)] if max_steps > 0 else [-1] * len(stages)
    applied = []
    for stage, stage_epochs, steps in zip(stages, split_epochs(epochs, shares), limits, strict=True):
        rate = learning_rate * stage.scale if stage.learning_rate is None else stage.learning_rate
        multiplier = head_lr_multiplier if stage.head_lr_multiplier is None else stage.head_lr_multiplier
        decay = layer_decay if stage.layer_decay is None else stage.layer_decay
        of_steps = (stage.learning_rate, stage.head_lr_multiplier, stage.scheduler, stage.warmup)
        applied.append(
            AppliedStage(
                stage.name,
                stage_epochs,
                rate,
                _pairs(stage, groups, rate, multiplier, 1.0 if decay is None else decay),
                steps,
                stage.scheduler,
                stage.warmup,
                stage.peft,
                stage.peft_options,
                configures_steps=any(value is not None for value in of_steps),
                objective=stage.objective,
            )
        )
    heads = [group.name for group in groups if group.role == "head"]
    of_task = [stage for stage in applied if stage.objective is None]
    if new_head and not any(stage[name].mode == "train" for stage in of_task for name in heads):
        raise UserError(
            "No stage trains the head, which is new and so random: nothing below it could make up for that. Let at "
            "least one stage have `head: train`."
        )
    return Plan(method, tuple(applied), learning_rate)


def _pairs(
    stage: Stage, groups: Sequence[Group], rate: float, head_multiplier: float, decay: float
) -> tuple[tuple[Group, Setting], ...]:
    """Each group with its setting.

    Raises:
        UserError: the stage trains nothing, or has adapters and adapts nothing.
    """
    modes = _modes(stage, groups)
    body = [group.name for group in groups if group.role not in ("head", "unused")]
    pairs = []
    for group in groups:
        mode, only = modes.get(group.name, ("frozen", None))
        if stage.objective == CONTRASTIVE and mode == "train" and group.label_sized:
            only = frozenset(only or group.parameters) - {*group.label_sized}
            mode = "train" if only else "frozen"
        if mode == "frozen":
            setting = Setting("frozen")
        elif group.role == "head":
            setting = Setting(mode, rate * head_multiplier, only)
        else:
            setting = Setting(mode, rate * decay ** (len(body) - 1 - body.index(group.name)), only)
        pairs.append((group, setting))
    if all(setting.frozen for _, setting in pairs):
        raise UserError(f"Stage '{stage.name}' trains nothing: all its groups are frozen.")
    if stage.peft and all(setting.mode != "adapt" for _, setting in pairs):
        raise UserError(f"Stage '{stage.name}' adapts nothing: peft needs blocks that the stage chooses.")
    return tuple(pairs)


def _modes(stage: Stage, groups: Sequence[Group]) -> dict[str, tuple[str, frozenset[str] | None]]:
    """The mode of each group that a stage names, and of which parameters."""
    if stage.groups is not None:
        return {name: (mode, None) for name, mode in choose_groups(stage.groups, groups).items()}
    roles = {group.name: group.role for group in groups}
    modes: dict[str, tuple[str, frozenset[str] | None]] = {}
    for name, only in choose_parameters(stage.trains, groups).items():
        if not stage.peft or roles[name] == "head":
            modes[name] = ("train", only)
        elif only is not None:
            raise UserError(
                f"Stage '{stage.name}': adapters go into whole blocks, and '{stage.trains}' chooses parts of them. Use "
                "`trains: all`, `last_n:N` or `first_n:N` with peft, or leave out peft."
            )
        elif roles[name] == "block":  # adapters go into the blocks; stem and neck stay as they are
            modes[name] = ("adapt", None)
    return modes


def split_epochs(total: float, shares: Sequence[float]) -> list[float]:
    """Share `total` epochs out, in whole epochs where there are enough of them.

    Whole epochs matter because evaluation and checkpoints fall on their ends.
    """
    parts = [total * share / sum(shares) for share in shares]
    if total != int(total) or total < len(shares):
        return parts
    whole = [max(1, round(part)) for part in parts]
    whole[-1] = int(total) - sum(whole[:-1])
    return [float(part) for part in whole] if whole[-1] >= 1 else parts
