"""Methods and plans: which depth groups train, in which order and at which rate, as plain data.

A *method* is a short list of stages. A *stage* chooses the depth groups that train (or are adapted); all others
are frozen. `plan_method` applies a method to the depth groups of a model and yields one setting for each group in
each stage. Nothing here needs torch: methods are listed, and mistakes in them answered, at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hf_ft.lookup import UserError, choose, split_argument
from hf_ft.tasks import get_task


class Group(Protocol):
    """What a plan needs to know of a depth group; see `hf_ft.depth_groups.DepthGroup`."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...


@dataclass(frozen=True)
class Setting:
    """What happens to one depth group in one stage: mode `train`, `adapt` or `frozen`, and its learning rate."""

    mode: str
    rate: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One stage of a method: which groups train, its share of the epochs, its scale of the learning rate.

    `trains` names a selector (`all`, `head`, `last_n:4`); with `adapt`, the blocks get adapters instead.
    """

    name: str
    trains: str
    share: float = 1.0
    scale: float = 1.0
    adapt: bool = False


@dataclass(frozen=True)
class Method:
    """A way of fine-tuning: its stages and the defaults that train well, by modality.

    `argument` says what stands behind the colon (`N` for `last_n:N`), None when nothing does.
    """

    name: str
    trains: str
    when: str
    paper: str
    stages: Callable[[str | None], tuple[Stage, ...]]
    defaults: Mapping[str, Mapping[str, Any]]
    argument: str | None = None
    pretrained: bool = True


def _select_all(groups: Sequence[Group], argument: str | None) -> set[str]:
    return {group.name for group in groups if group.role != "unused"}


def _select_head(groups: Sequence[Group], argument: str | None) -> set[str]:
    return {group.name for group in groups if group.role == "head"}


def _select_last(groups: Sequence[Group], argument: str | None) -> set[str]:
    blocks = [group for group in groups if group.role == "block"]
    count = int(argument or 0)
    if count > len(blocks):
        raise UserError(
            f"last_n:{count} asks for more blocks than the model has ({len(blocks)}). Use last_n:1 to "
            f"last_n:{len(blocks)}, or `full` to train everything."
        )
    chosen = blocks[len(blocks) - count :]
    above = {group.name for group in groups if group.role == "neck"}
    return {group.name for group in chosen} | above | _select_head(groups, None)


SELECTORS: dict[str, Callable[[Sequence[Group], str | None], set[str]]] = {
    "all": _select_all,
    "head": _select_head,
    "last_n": _select_last,
}
"""Name -> function from the depth groups to the names of those that train."""


def _one(trains: str, adapt: bool = False) -> Callable[[str | None], tuple[Stage, ...]]:
    def stages(argument: str | None) -> tuple[Stage, ...]:
        chosen = trains if argument is None else f"{trains}:{argument}"
        return (Stage(trains if trains != "all" else "full", chosen, adapt=adapt),)

    return stages


def _lp_ft(argument: str | None) -> tuple[Stage, ...]:
    return (Stage("head", "head", share=0.3, scale=10.0), Stage("full", "all", share=0.7))


def _lora(argument: str | None) -> tuple[Stage, ...]:
    return (Stage("lora", "all", adapt=True),)


# Rates are those of the body; the head's is `head_lr_multiplier` times as high (ten, as in
# https://d2l.ai/chapter_computer-vision/fine-tuning.html). `min_steps` raises the number of epochs on small data.
_TUNE = {"head_lr_multiplier": 10.0, "min_steps": 300}
# A linear probe is a convex problem and its loss falls smoothly, while its accuracy on a small validation split is
# mostly noise from epoch to epoch: so its best epoch is the one of least loss.
_PROBE = {"metric_for_best_model": "loss", "min_steps": 300}
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="scratch",
            trains="everything, from random weights",
            when="to see what pretraining is worth; for large data of an unusual kind",
            paper="https://arxiv.org/abs/1811.08883",
            stages=_one("all"),
            defaults={
                "image": {"learning_rate": 1e-3, "num_train_epochs": 10, "augment": "basic", "min_steps": 600},
                "text": {"learning_rate": 1e-4, "num_train_epochs": 10, "min_steps": 600},
            },
            pretrained=False,
        ),
        Method(
            name="head",
            trains="the new head only (linear probe)",
            # Measured on MiniLM's pooled sentences, whose features vary by 0.04 only: logistic regression scores 0.754
            # on SST-2, this rate 0.752, a third of it 0.744. A head of several layers takes DEEP_HEAD_RATE.
            when="very little data, or data much like the source model's; the fastest",
            paper="https://arxiv.org/abs/1411.1792",
            stages=_one("head"),
            defaults={
                "image": {"learning_rate": 1e-2, "num_train_epochs": 10, "augment": "none"} | _PROBE,
                "text": {"learning_rate": 1e-1, "num_train_epochs": 5} | _PROBE,
            },
        ),
        Method(
            name="last_n",
            trains="the last N blocks and the head",
            when="between `head` and `full`: less memory and time than `full`, often as good",
            paper="https://arxiv.org/abs/1911.03090",
            stages=_one("last_n"),
            defaults={
                "image": {"learning_rate": 3e-4, "num_train_epochs": 10, "augment": "basic"} | _TUNE,
                "text": {"learning_rate": 5e-5, "num_train_epochs": 3} | _TUNE,
            },
            argument="N",
        ),
        Method(
            name="full",
            trains="everything, the head at a higher rate",
            when="a thousand examples or more, close to what the source model knows",
            paper="https://arxiv.org/abs/1801.06146",
            stages=_one("all"),
            defaults={
                "image": {"learning_rate": 3e-4, "num_train_epochs": 10, "augment": "basic"} | _TUNE,
                "text": {"learning_rate": 5e-5, "num_train_epochs": 3} | _TUNE,
            },
        ),
        Method(
            name="lp_ft",
            trains="first the head, then everything at a lower rate",
            when="the default: as good as `full`, and better on data unlike the training data",
            paper="https://arxiv.org/abs/2202.10054",
            stages=_lp_ft,
            defaults={
                "image": {"learning_rate": 3e-4, "num_train_epochs": 10, "augment": "basic"} | _TUNE,
                "text": {"learning_rate": 5e-5, "num_train_epochs": 4} | _TUNE,
            },
        ),
        Method(
            name="lora",
            trains="low-rank adapters in all blocks, and the head",
            when="large models, or many tasks on one: the adapter is small and merges into plain weights",
            paper="https://arxiv.org/abs/2106.09685",
            stages=_lora,
            defaults={
                "image": {"learning_rate": 1e-3, "num_train_epochs": 10, "augment": "basic"} | _TUNE,
                "text": {"learning_rate": 5e-4, "num_train_epochs": 4} | _TUNE,
            },
        ),
    )
}


DEEP_HEAD_RATE = 1e-3
"""Default rate of method `head` for a head of more than one layer, which the rates of a linear probe would wreck."""


def parse_method(text: str) -> tuple[Method, str | None]:
    """Split `last_n:4` into the method and its checked argument.

    Raises:
        UserError: unknown method (with the nearest), argument missing, superfluous or not a positive number.
    """
    name, argument = split_argument(text)
    method = METHODS[choose(name, METHODS, "method")]
    if method.argument is None and argument is not None:
        raise UserError(f"Method '{name}' takes no argument, but ':{argument}' was given.")
    if method.argument is not None and not (argument or "").isdecimal():
        raise UserError(f"Method '{name}' needs a number of blocks: {name}:{method.argument}, for example {name}:2.")
    if argument is not None and int(argument) < 1:
        raise UserError(f"{name}:{argument} trains no block. Use `head` to train the head only.")
    return method, argument


def method_defaults(text: str, task: str) -> dict[str, Any]:
    """The settings that a method brings for a task; `min_steps` is the plan's own and is not among them."""
    settings = parse_method(text)[0].defaults[get_task(task).modality]
    return {name: value for name, value in settings.items() if name != "min_steps"}


def default_epochs(text: str, task: str, steps_per_epoch: int) -> int:
    """Epochs when the user set none: the method's, or more where so few data would make too few steps."""
    settings = parse_method(text)[0].defaults[get_task(task).modality]
    return max(settings["num_train_epochs"], -(-settings["min_steps"] // max(steps_per_epoch, 1)))


@dataclass(frozen=True)
class PlannedStage:
    """A stage applied to a model: one setting for each depth group, in the order of the table."""

    name: str
    epochs: float
    rate: float
    settings: tuple[Setting, ...]
    max_steps: int = -1

    @property
    def trainable(self) -> tuple[int, ...]:
        """Positions of the groups that are not frozen."""
        return tuple(i for i, setting in enumerate(self.settings) if setting.mode != "frozen")


@dataclass(frozen=True)
class Plan:
    """What a run does to a model: a method's stages with a setting for every depth group."""

    method: str
    stages: tuple[PlannedStage, ...]
    groups: tuple[str, ...] = field(default=())

    @property
    def adapts(self) -> bool:
        """Whether any stage attaches adapters."""
        return any(setting.mode == "adapt" for stage in self.stages for setting in stage.settings)


def plan_method(
    text: str,
    groups: Sequence[Group],
    epochs: float,
    learning_rate: float,
    head_lr_multiplier: float = 1.0,
    layer_decay: float = 1.0,
    max_steps: int = -1,
) -> Plan:
    """Apply a method to the depth groups of a model.

    The rate of a group is `learning_rate` x the stage's scale x `layer_decay` to the power of its distance from
    the top, and for the head `head_lr_multiplier` instead of the decay; a stage that trains the head alone has
    nothing to be higher than, so there the head's rate is `learning_rate` x the multiplier as well.

    Raises:
        UserError: a method or argument that the model cannot take.
    """
    method, argument = parse_method(text)
    stages = method.stages(argument)
    shares = [stage.share for stage in stages]
    limits = [max(1, round(part)) for part in split_epochs(max_steps, shares)] if max_steps > 0 else [-1] * len(stages)
    planned = []
    for stage, stage_epochs, steps in zip(stages, split_epochs(epochs, shares), limits, strict=True):
        rate = learning_rate * stage.scale
        settings = _settings(stage, groups, rate, head_lr_multiplier, layer_decay)
        planned.append(PlannedStage(stage.name, stage_epochs, rate, settings, steps))
    if layer_decay != 1 and all(stage.trains == "head" for stage in stages):
        raise UserError(f"layer_decay acts on blocks, and method '{text}' trains the head alone. Leave it out.")
    return Plan(text, tuple(planned), tuple(group.name for group in groups))


def _settings(
    stage: Stage, groups: Sequence[Group], rate: float, head_multiplier: float, decay: float
) -> tuple[Setting, ...]:
    chosen = choose_groups(stage.trains, groups)
    body = [group.name for group in groups if group.role not in ("head", "unused")]
    settings = []
    for group in groups:
        if group.name not in chosen:
            settings.append(Setting("frozen"))
        elif group.role == "head":
            settings.append(Setting("train", rate * head_multiplier))
        elif stage.adapt and group.role != "block":
            settings.append(Setting("frozen"))  # adapters go into the blocks; stem and neck stay as they are
        else:
            here = rate * decay ** (len(body) - 1 - body.index(group.name))
            settings.append(Setting("adapt" if stage.adapt else "train", here))
    return tuple(settings)


def choose_groups(selector: str, groups: Sequence[Group]) -> set[str]:
    """The names of the groups that a selector (`all`, `head`, `last_n:4`) chooses.

    Raises:
        UserError: unknown selector, or one that the model cannot take.
    """
    name, argument = split_argument(selector)
    return SELECTORS[choose(name, SELECTORS, "selection of depth groups")](groups, argument)


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
