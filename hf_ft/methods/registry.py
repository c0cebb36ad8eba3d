"""The methods of fine-tuning: `METHODS`, each a short list of stages with defaults that train well.

To add a method, add a row to `METHODS` and its defaults to `defaults.py`. Nothing here needs torch: methods are listed,
and mistakes in them answered, at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_ft.errors import UserError
from hf_ft.methods.defaults import DEFAULTS
from hf_ft.methods.selectors import Group
from hf_ft.methods.stages import CONTRASTIVE, Stage


@dataclass(frozen=True)
class Method:
    """A way of fine-tuning: its stages, which may follow from the depth groups, and defaults that train well.

    Args:
        name: Name of the method.
        trains: What trains, for `hf-ft methods`.
        when: When to use it.
        paper: Link to the paper.
        stages: From argument and depth groups to the stages.
        defaults: Modality -> settings that train well; `min_steps` raises the number of epochs on small data.
        argument: What follows the colon (`N` in `last_n:N`), None for methods without an argument.
        pretrained: Whether it starts from pretrained weights.
        limited: Whether it can be limited to the top blocks, as in `lora@last_n:4`; see `MethodSpec.top`.
    """

    name: str
    trains: str
    when: str
    paper: str
    stages: Callable[[str | None, Sequence[Group]], tuple[Stage, ...]]
    defaults: Mapping[str, Mapping[str, Any]]
    argument: str | None = None
    pretrained: bool = True
    limited: bool = False

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


def _contrastive(argument: str | None, groups: Sequence[Group]) -> tuple[Stage, ...]:
    return (
        Stage("contrastive", "all", share=0.5, objective=CONTRASTIVE),
        Stage("head", "head", share=0.5, scale=20.0),
    )


def _peft(argument: str | None, groups: Sequence[Group]) -> tuple[Stage, ...]:
    name = argument or "lora"
    return (Stage(name, "all", peft=name),)


def _not_yet(argument: str | None, groups: Sequence[Group]) -> tuple[Stage, ...]:
    raise UserError(
        "Method 'auto' trains what a search has chosen, and only `hf-ft train` and finetune() search.",
        option="method",
        value="auto",
        hint="Run `hf-ft depth` and use the method that it prints.",
    )


UNFREEZINGS = 5
"""Most stages in which `gradual` unfreezes the groups below the neck: several blocks at a time in a deep model."""


def _gradual(argument: str | None, groups: Sequence[Group]) -> tuple[Stage, ...]:
    """Gradual unfreezing as in ULMFiT (https://arxiv.org/abs/1801.06146): head, then blocks from the top, then all.

    The head trains alone first, so that it can be solved in closed form. ULMFiT divides the rate by 2.6 for every
    layer it unfreezes, and has four of them. Here the factor applies to each stage instead of each block, so that the
    lowest blocks of a deep model still learn.
    """
    frozen = sum(group.role in ("stem", "block") for group in groups)  # a stem is unfrozen last
    each = -(-frozen // UNFREEZINGS)
    decay = 2.6 ** (-1 / each)
    stages = [Stage("head", "head", scale=10.0)]
    stages += [Stage(f"last_{depth}", f"last_n:{depth}", layer_decay=decay) for depth in range(each, frozen, each)]
    return (*stages, Stage("full", "all", share=3.0, layer_decay=decay))


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="scratch",
            trains="everything, from random weights",
            when="to see what pretraining is worth; for large data of an unusual kind",
            paper="https://arxiv.org/abs/1811.08883",
            stages=_one("all", "full"),
            defaults=DEFAULTS["scratch"],
            pretrained=False,
        ),
        Method(
            name="head",
            trains="the new head only (linear probe)",
            when="very little data, or data much like the source model's; the fastest",
            paper="https://arxiv.org/abs/1411.1792",
            stages=_one("head"),
            defaults=DEFAULTS["head"],
        ),
        Method(
            name="last_n",
            trains="the last N blocks and the head",
            when="between `head` and `full`: less memory and time than `full`, often as good",
            paper="https://arxiv.org/abs/1911.03090",
            stages=_one("last_n"),
            defaults=DEFAULTS["last_n"],
            argument="N",
        ),
        Method(
            name="first_n",
            trains="all but the stem and the first N blocks",
            when="like `last_n`, counted from below: preserves the general features of the lower layers",
            paper="https://arxiv.org/abs/1411.1792",
            stages=_one("first_n"),
            defaults=DEFAULTS["first_n"],
            argument="N",
        ),
        Method(
            name="full",
            trains="everything, the head at a higher rate",
            when="a thousand examples or more, close to what the source model knows",
            paper="https://arxiv.org/abs/1801.06146",
            stages=_one("all", "full"),
            defaults=DEFAULTS["full"],
        ),
        Method(
            name="lp_ft",
            trains="first the head, then everything at a lower rate",
            when="the default: as good as `full`, and better on data unlike the training data",
            paper="https://arxiv.org/abs/2202.10054",
            stages=_lp_ft,
            defaults=DEFAULTS["lp_ft"],
        ),
        Method(
            name="contrastive",
            trains="everything, so that examples of one class become alike; then the head",
            when="8 to 100 examples a class; texts with a sentence encoder (SetFit)",
            paper="https://arxiv.org/abs/2209.11055",
            stages=_contrastive,
            defaults=DEFAULTS["contrastive"],
        ),
        Method(
            name="gradual",
            trains="the head, then block after block from the top, then everything",
            when="few examples unlike the source model's; slower than `lp_ft`",
            paper="https://arxiv.org/abs/1801.06146",
            stages=_gradual,
            defaults=DEFAULTS["gradual"],
        ),
        Method(
            name="lora",
            trains="low-rank adapters in all blocks, and the head",
            when="large models, or many tasks on one: the adapter is small and merges into plain weights",
            paper="https://arxiv.org/abs/2106.09685",
            stages=_peft,
            defaults=DEFAULTS["lora"],
            limited=True,
        ),
        Method(
            name="peft",
            trains="adapters of another PEFT method in all blocks, and the head",
            when="to try DoRA, LoHa, OFT, IA3, VeRA and some thirty more: see hf-ft methods --peft",
            paper="https://arxiv.org/abs/2303.15647",
            stages=_peft,
            defaults=DEFAULTS["peft"],
            argument="NAME",
            limited=True,
        ),
        Method(
            name="bitfit",
            trains="all biases, and the head",
            when="very many tasks on one model: a thousandth of it changes",
            paper="https://arxiv.org/abs/2106.10199",
            stages=_one("bitfit"),
            defaults=DEFAULTS["bitfit"],
            limited=True,
        ),
        Method(
            name="norms",
            trains="scale and shift of all normalisation layers, and the head",
            when="like `bitfit`, for convolution networks too, which have no biases but those",
            paper="https://arxiv.org/abs/2312.11420",
            stages=_one("norms"),
            defaults=DEFAULTS["norms"],
            limited=True,
        ),
        Method(
            name="train",
            trains="parameters and modules whose full name matches, and the head",
            when="you know which: `train:*attention*,*norm*`; `hf-ft inspect` shows the names",
            paper="https://arxiv.org/abs/2210.11466",
            stages=_one("train", "chosen"),
            defaults=DEFAULTS["train"],
            argument="PATTERN",
        ),
        Method(
            name="auto",
            trains="what `hf-ft depth` chooses: the head, the last N blocks, or everything",
            when="you do not know how many blocks to freeze: short trainings at all depths come first",
            paper="https://arxiv.org/abs/1502.07943",
            stages=_not_yet,
            defaults=DEFAULTS["auto"],
        ),
    )
}
