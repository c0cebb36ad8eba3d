"""Methods and plans: what trains in which order and at which rate, as plain data.

A *method* is a short list of stages. A *stage* chooses what trains (or is adapted); everything else is frozen.
`plan_stages` applies stages to the depth groups of a model and yields one setting for each group in each stage.
Nothing here needs torch: methods are listed, and mistakes in them answered, at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hf_ft.errors import UserError, choose, split_argument
from hf_ft.methods.peft_registry import HEAD_RATES, check_name, preset
from hf_ft.methods.selectors import Group, check_argument, choose_groups, choose_parameters


@dataclass(frozen=True)
class Setting:
    """What happens to one depth group in one stage: mode `train`, `adapt` or `frozen`, and its learning rate.

    `only` names the parameters that train where it is not the whole group; the rest of it is frozen.
    """

    mode: str
    rate: float = 0.0
    only: frozenset[str] | None = None

    @property
    def whole(self) -> bool:
        """Whether everything in the group trains, running statistics included."""
        return self.mode == "train" and self.only is None

    def trains(self, parameter: str) -> bool:
        """Whether a parameter of the group trains itself (that of an adapter on it is another matter)."""
        return self.mode == "train" and (self.only is None or parameter in self.only)

    def describe(self, group: Group) -> str:
        """The setting in words: `frozen`, `adapt`, `train`, or `train 4 of 16` parameters."""
        return self.mode if self.only is None else f"{self.mode} {len(self.only)} of {len(group.parameters)}"


@dataclass(frozen=True)
class Stage:
    """One stage of a method: what trains, its share of the epochs, its scale of the learning rate.

    `trains` is a selector (`all`, `last_n:4`, `bitfit`), or `groups` gives the mode of each group by name. With `peft`
    the chosen blocks get the adapters of that PEFT method. What is None is that of the whole run; `learning_rate`
    stands for the run's times `scale`.
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


@dataclass(frozen=True)
class Method:
    """A way of fine-tuning: its stages, which may follow from the depth groups, and defaults that train well.

    `argument` says what stands behind the colon (`N` for `last_n:N`), None when nothing does.
    """

    name: str
    trains: str
    when: str
    paper: str
    stages: Callable[[str | None, Sequence[Group]], tuple[Stage, ...]]
    defaults: Mapping[str, Mapping[str, Any]]
    argument: str | None = None
    pretrained: bool = True

    @property
    def spelled(self) -> str:
        """The name with its argument, as in `last_n:N`."""
        return f"{self.name}:{self.argument}" if self.argument else self.name


def _one(trains: str, name: str | None = None) -> Callable[[str | None, Sequence[Group]], tuple[Stage, ...]]:
    def stages(argument: str | None, groups: Sequence[Group]) -> tuple[Stage, ...]:
        return (Stage(name or trains, trains if argument is None else f"{trains}:{argument}"),)

    return stages


def _lp_ft(argument: str | None, groups: Sequence[Group]) -> tuple[Stage, ...]:
    return (Stage("head", "head", share=0.3, scale=10.0), Stage("full", "all", share=0.7))


def _peft(argument: str | None, groups: Sequence[Group]) -> tuple[Stage, ...]:
    name = argument or "lora"
    return (Stage(name, "all", peft=name),)


def _not_yet(argument: str | None, groups: Sequence[Group]) -> tuple[Stage, ...]:
    raise UserError(
        "Method 'auto' trains what a search has chosen, and only `hf-ft train` and finetune() search. Run `hf-ft "
        "depth` and give the method that it names."
    )


UNFREEZINGS = 5
"""Most steps in which `gradual` thaws the groups below the neck; in a deep model each thaws several blocks."""


def _gradual(argument: str | None, groups: Sequence[Group]) -> tuple[Stage, ...]:
    """First the head, then neck and block after block from the top, and at last everything.

    The head comes alone, so that it can be solved: the layers below thaw under the best head that they allow. ULMFiT
    divides the rate by 2.6 with every layer it thaws, and has four of them. Here that factor belongs to each thawing,
    so that the lowest blocks of a deep model still learn.
    """
    frozen = sum(group.role in ("stem", "block") for group in groups)  # a stem, where there is one, thaws last
    each = -(-frozen // UNFREEZINGS)
    decay = 2.6 ** (-1 / each)
    stages = [Stage("head", "head", scale=10.0)]
    stages += [Stage(f"last_{depth}", f"last_n:{depth}", layer_decay=decay) for depth in range(each, frozen, each)]
    return (*stages, Stage("full", "all", share=3.0, layer_decay=decay))


# Rates are those of the body; the head's is `head_lr_multiplier` times as high (ten, as in
# https://d2l.ai/chapter_computer-vision/fine-tuning.html). `min_steps` raises the number of epochs on small data.
_TUNE = {"head_lr_multiplier": 10.0, "min_steps": 300}
# A linear probe is a convex problem and its loss falls smoothly, while its accuracy on a small validation split is
# mostly noise from epoch to epoch: so its best epoch is the one of least loss.
_PROBE = {"metric_for_best_model": "loss", "min_steps": 300}
# A few small parameters need a high rate; the head's is that of the adapters' head.
_PART = {"head_lr_multiplier": 2.5, "min_steps": 300}
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="scratch",
            trains="everything, from random weights",
            when="to see what pretraining is worth; for large data of an unusual kind",
            paper="https://arxiv.org/abs/1811.08883",
            stages=_one("all", "full"),
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
            name="first_n",
            trains="all but the stem and the first N blocks",
            when="like `last_n`, counted from below: keeps what is common to all data",
            paper="https://arxiv.org/abs/1411.1792",
            stages=_one("first_n"),
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
            stages=_one("all", "full"),
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
            name="gradual",
            trains="the head, then block after block from the top, then everything",
            when="few examples unlike the source model's; slower than `lp_ft`",
            paper="https://arxiv.org/abs/1801.06146",
            stages=_gradual,
            defaults={
                "image": {"learning_rate": 3e-4, "num_train_epochs": 12, "augment": "basic"} | _TUNE,
                "text": {"learning_rate": 1e-4, "num_train_epochs": 8} | _TUNE,
            },
        ),
        Method(
            name="lora",
            trains="low-rank adapters in all blocks, and the head",
            when="large models, or many tasks on one: the adapter is small and merges into plain weights",
            paper="https://arxiv.org/abs/2106.09685",
            stages=_peft,
            defaults={
                "image": {"learning_rate": 1e-3, "num_train_epochs": 10, "augment": "basic"} | _TUNE,
                "text": {"learning_rate": 5e-4, "num_train_epochs": 4} | _TUNE,
            },
        ),
        Method(
            name="peft",
            trains="adapters of another PEFT method in all blocks, and the head",
            when="to try DoRA, LoHa, OFT, IA3, VeRA and some thirty more: see hf-ft methods --peft",
            paper="https://arxiv.org/abs/2303.15647",
            stages=_peft,
            defaults={
                "image": {"num_train_epochs": 10, "augment": "basic"} | _TUNE,
                "text": {"num_train_epochs": 4} | _TUNE,
            },
            argument="NAME",
        ),
        Method(
            name="bitfit",
            trains="all biases, and the head",
            when="very many tasks on one model: a thousandth of it changes",
            paper="https://arxiv.org/abs/2106.10199",
            stages=_one("bitfit"),
            defaults={
                "image": {"learning_rate": 3e-3, "num_train_epochs": 10, "augment": "basic"} | _PART,
                "text": {"learning_rate": 2e-3, "num_train_epochs": 4} | _PART,
            },
        ),
        Method(
            name="norms",
            trains="scale and shift of all normalisation layers, and the head",
            when="like `bitfit`, for convolution networks too, which have no biases but those",
            paper="https://arxiv.org/abs/2312.11420",
            stages=_one("norms"),
            defaults={
                "image": {"learning_rate": 3e-3, "num_train_epochs": 10, "augment": "basic"} | _PART,
                "text": {"learning_rate": 2e-3, "num_train_epochs": 4} | _PART,
            },
        ),
        Method(
            name="train",
            trains="parameters and modules whose full name matches, and the head",
            when="you know which: `train:*attention*,*norm*`; `hf-ft inspect` shows the names",
            paper="https://arxiv.org/abs/2210.11466",
            stages=_one("train", "chosen"),
            defaults={
                "image": {"learning_rate": 3e-4, "num_train_epochs": 10, "augment": "basic"} | _TUNE,
                "text": {"learning_rate": 5e-5, "num_train_epochs": 4} | _TUNE,
            },
            argument="PATTERN",
        ),
        Method(
            name="auto",
            trains="what `hf-ft depth` chooses: the head, the last N blocks, or everything",
            when="you do not know how many blocks to freeze: short trainings at all depths come first",
            paper="https://arxiv.org/abs/1502.07943",
            stages=_not_yet,
            defaults={
                "image": {"learning_rate": 3e-4, "num_train_epochs": 10, "augment": "basic"} | _TUNE,
                "text": {"learning_rate": 5e-5, "num_train_epochs": 3} | _TUNE,
            },
        ),
    )
}


DEEP_HEAD_RATE = 1e-3
"""Default rate of method `head` for a head of more than one layer, which the rates of a linear probe would wreck."""


def parse_method(text: str) -> tuple[Method, str | None]:
    """Split `last_n:4` into the method and its checked argument.

    Raises:
        UserError: unknown method (with the nearest), argument missing, superfluous or not what the method takes.
    """
    name, argument = split_argument(text)
    method = METHODS[choose(name, METHODS, "method", option="method")]
    if method.argument == "NAME":
        if not argument:
            raise UserError(f"Method '{name}' needs a method of PEFT: {method.spelled}, for example {name}:loha.")
        check_name(argument)
    else:
        check_argument(name, argument, method.argument, "method")
    return method, argument


def own_method(stages: Sequence[Stage]) -> Method:
    """The method that a user's own stages make; its defaults are those of `lp_ft`."""
    return replace(METHODS["lp_ft"], name="plan", trains="", when="", paper="", stages=lambda _, __: tuple(stages))


def method_defaults(text: str, modality: str) -> dict[str, Any]:
    """The settings that a method brings for a modality; `min_steps` is the plan's own and is not among them."""
    method, argument = parse_method(text)
    settings = dict(method.defaults[modality])
    if method.argument == "NAME":
        settings |= adapter_rates(argument or "", modality)
    return {name: value for name, value in settings.items() if name != "min_steps"}


def adapter_rates(name: str, modality: str) -> dict[str, float]:
    """The learning rate of a PEFT method's adapters, and what multiplies it for the head."""
    rate: float = getattr(preset(name), modality)
    return {"learning_rate": rate, "head_lr_multiplier": HEAD_RATES[modality] / rate}


def default_epochs(method: Method, modality: str, steps_per_epoch: int) -> int:
    """Epochs when the user set none: the method's, or more where so few data would make too few steps."""
    settings = method.defaults[modality]
    return max(settings["num_train_epochs"], -(-settings["min_steps"] // max(steps_per_epoch, 1)))


@dataclass(frozen=True)
class PlannedStage:
    """A stage applied to a model: one setting for each depth group, in the order of the table.

    `scheduler` and `warmup` are None where the run's own hold. With `own_steps`, the stage itself says how its steps
    are to be made (a rate, a schedule), so that they are made even where a head could be solved.
    """

    name: str
    epochs: float
    rate: float
    settings: tuple[Setting, ...]
    max_steps: int = -1
    scheduler: str | None = None
    warmup: float | None = None
    peft: str | None = None
    peft_options: Mapping[str, Any] = field(default_factory=dict)
    own_steps: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run does to a model: a method's stages with a setting for every depth group."""

    method: str
    stages: tuple[PlannedStage, ...]
    groups: tuple[str, ...] = field(default=())


def plan_method(
    text: str,
    groups: Sequence[Group],
    epochs: float,
    learning_rate: float,
    head_lr_multiplier: float = 1.0,
    layer_decay: float | None = None,
    max_steps: int = -1,
    peft_options: Mapping[str, Any] | None = None,
) -> Plan:
    """Apply a method by name to the depth groups of a model; see `plan_stages`.

    `layer_decay` replaces what the method itself has; `peft_options` go to its adapters.

    Raises:
        UserError: a method or argument that the model cannot take.
    """
    method, argument = parse_method(text)
    stages = tuple(replace(stage, peft_options=peft_options or {}) for stage in method.stages(argument, groups))
    if layer_decay is not None:
        stages = tuple(replace(stage, layer_decay=layer_decay) for stage in stages)
    if layer_decay not in (None, 1) and all(stage.trains == "head" for stage in stages):
        raise UserError(f"layer_decay acts on blocks, and method '{text}' trains the head alone. Leave it out.")
    return plan_stages(text, stages, groups, epochs, learning_rate, head_lr_multiplier, max_steps=max_steps)


def plan_stages(
    name: str,
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
    planned = []
    for stage, stage_epochs, steps in zip(stages, split_epochs(epochs, shares), limits, strict=True):
        rate = learning_rate * stage.scale if stage.learning_rate is None else stage.learning_rate
        decay = layer_decay if stage.layer_decay is None else stage.layer_decay
        multiplier = head_lr_multiplier if stage.head_lr_multiplier is None else stage.head_lr_multiplier
        settings = _settings(stage, groups, rate, multiplier, 1.0 if decay is None else decay)
        of_steps = (stage.learning_rate, stage.head_lr_multiplier, stage.scheduler, stage.warmup)
        own = (stage.scheduler, stage.warmup, stage.peft, stage.peft_options)
        planned.append(
            PlannedStage(
                stage.name, stage_epochs, rate, settings, steps, *own, any(value is not None for value in of_steps)
            )
        )
    heads = [i for i, group in enumerate(groups) if group.role == "head"]
    if new_head and not any(stage.settings[i].mode == "train" for stage in planned for i in heads):
        raise UserError(
            "No stage trains the head, which is new and so random: nothing below it could make up for that. Let at "
            "least one stage have `head: train`."
        )
    return Plan(name, tuple(planned), tuple(group.name for group in groups))


def _settings(
    stage: Stage, groups: Sequence[Group], rate: float, head_multiplier: float, decay: float
) -> tuple[Setting, ...]:
    modes = _modes(stage, groups)
    body = [group.name for group in groups if group.role not in ("head", "unused")]
    settings = []
    for group in groups:
        mode, only = modes.get(group.name, ("frozen", None))
        if mode == "frozen":
            settings.append(Setting("frozen"))
        elif group.role == "head":
            settings.append(Setting(mode, rate * head_multiplier, only))
        else:
            here = rate * decay ** (len(body) - 1 - body.index(group.name))
            settings.append(Setting(mode, here, only))
    if all(setting.mode == "frozen" for setting in settings):
        raise UserError(f"Stage '{stage.name}' trains nothing: all its groups are frozen.")
    if stage.peft and all(setting.mode != "adapt" for setting in settings):
        raise UserError(f"Stage '{stage.name}' adapts nothing: peft needs blocks that the stage chooses.")
    return tuple(settings)


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
