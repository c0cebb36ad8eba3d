"""A method as a user names it: `last_n:4` is read once, into a `MethodSpec`, and stays one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hf_ft.errors import UserError, choose, split_argument
from hf_ft.methods.defaults import HEAD_RATES, PLAN_ONLY, preset, rate_for_size
from hf_ft.methods.peft_methods import check_name
from hf_ft.methods.registry import METHODS, Method
from hf_ft.methods.selectors import Group, check_argument, check_top, split_top
from hf_ft.methods.stages import CONTRASTIVE, Plan, Stage, plan_stages


@dataclass(frozen=True)
class MethodSpec:
    """A method and its argument; `str()` returns the text that `MethodSpec.parse` reads.

    Args:
        name: Name of the method in `METHODS`, or `plan` with stages of the user's own.
        argument: The text after the colon (`4` in `last_n:4`), None without a colon.
        own_stages: The stages of a plan.
        top: The blocks that it is limited to, as in `lora@last_n:4`; None for all of them.

    Example:
        >>> MethodSpec.parse("lora@last_n:4")
        MethodSpec(name='lora', argument=None, own_stages=(), top='last_n:4')
    """

    name: str
    argument: str | None = None
    own_stages: tuple[Stage, ...] = ()
    top: str | None = None

    def __str__(self) -> str:
        named = self.name if self.argument is None else f"{self.name}:{self.argument}"
        return named if self.top is None else f"{named}@{self.top}"

    @classmethod
    def parse(cls, text: str | MethodSpec) -> MethodSpec:
        """Read a method with its argument; a `MethodSpec` is returned as it is.

        Raises:
            UserError: Unknown method (with the nearest); argument missing, unexpected or invalid; or a method that
                cannot be limited to the top blocks.
        """
        if isinstance(text, MethodSpec):
            return text
        what, top = split_top(text)
        name, argument = split_argument(what)
        method = METHODS[choose(name, METHODS, "method", option="method")]
        if method.argument != "NAME":
            check_argument(name, argument, method.argument, "method")
        elif argument:
            check_name(argument)
        else:
            raise UserError(
                f"Method '{name}' needs the name of a PEFT method.",
                option="method",
                value=text,
                hint=f"Use {method.spelled}, for example {name}:loha.",
            )
        if top is not None:
            top = check_top(text, top, [one.spelled for one in METHODS.values() if one.limited], "method")
        return cls(name, argument, top=top)

    @classmethod
    def from_stages(cls, stages: Sequence[Stage]) -> MethodSpec:
        """The method that a user's own stages make, called `plan`."""
        return cls("plan", own_stages=tuple(stages))

    @property
    def definition(self) -> Method:
        """The row of `METHODS`; for a plan that of `lp_ft`, whose defaults it has, with stages of its own."""
        if not self.own_stages:
            return METHODS[self.name]
        return replace(
            METHODS["lp_ft"], name="plan", trains="", when="", paper="", stages=lambda _, __: self.own_stages
        )

    @property
    def depends_on_model(self) -> bool:
        """Whether only a model's depth groups show that it can take the method, as for `last_n:4` or a plan."""
        return bool(self.own_stages or self.top) or self.definition.argument in ("N", "PATTERN")

    @property
    def contrastive(self) -> bool:
        """Whether a stage learns from pairs of examples, so that it must be known which are of one class."""
        return self.name == CONTRASTIVE or any(stage.objective == CONTRASTIVE for stage in self.own_stages)

    @property
    def peft(self) -> str | None:
        """The PEFT method behind it (`lora`, or NAME of `peft:NAME`); None for all others, plans included."""
        return {"lora": "lora", "peft": self.argument}.get(self.name)

    def stages(self, groups: Sequence[Group]) -> tuple[Stage, ...]:
        """Its stages, which may follow from the depth groups (`gradual`)."""
        stages = self.definition.stages(self.argument, groups)
        return stages if self.top is None else tuple(stage.limited(self.top) for stage in stages)

    def defaults(self, modality: str) -> dict[str, Any]:
        """The settings that the method brings for a modality."""
        settings = dict(self.definition.defaults[modality])
        if self.definition.argument == "NAME":
            settings |= adapter_rates(self.argument or "", modality)
        return {name: value for name, value in settings.items() if name not in PLAN_ONLY}

    def default_epochs(self, modality: str, steps_per_epoch: int) -> int:
        """Epochs when the user set none: the method's, or more where so few data would make too few steps."""
        settings = self.definition.defaults[modality]
        return max(settings["num_train_epochs"], -(-settings["min_steps"] // max(steps_per_epoch, 1)))

    def default_rate(self, modality: str, groups: Sequence[Group]) -> float:
        """The learning rate when the user set none: the method's, by the kind of network and by its size."""
        rate = self.definition.defaults[modality].get("transformer_rate")
        batch_norm = any(name.endswith("running_mean") for group in groups for name in group.buffers)
        if rate is None or batch_norm:
            return float(self.defaults(modality)["learning_rate"])
        return rate_for_size(rate, sum(group.size for group in groups if group.role == "block"))


def join_patterns(words: Sequence[str]) -> list[str]:
    """Methods from a list that was split at commas; `train:PATTERN` may have commas between its own patterns.

    A word after such a method that looks like a pattern and is no method belongs to it.

    Example:
        >>> join_patterns(["train:*query*", "*value*", "full"])
        ['train:*query*,*value*', 'full']
    """
    found: list[str] = []
    for word in words:
        name, _ = split_argument(word)
        follows = bool(found) and split_argument(found[-1])[0] == "train"
        if follows and name not in METHODS and any(sign in word for sign in "*?[."):
            found[-1] += f",{word}"
        else:
            found.append(word)
    return found


def adapter_rates(name: str, modality: str) -> dict[str, float]:
    """The learning rate of a PEFT method's adapters, and what multiplies it for the head."""
    rate: float = getattr(preset(name), modality)
    return {"learning_rate": rate, "head_lr_multiplier": HEAD_RATES[modality] / rate}


def plan_method(
    method: str | MethodSpec,
    groups: Sequence[Group],
    epochs: float,
    learning_rate: float,
    head_lr_multiplier: float = 1.0,
    layer_decay: float | None = None,
    max_steps: int = -1,
    peft_options: Mapping[str, Any] | None = None,
    new_head: bool = True,
) -> Plan:
    """Apply a method to the depth groups of a model; see `plan_stages`.

    `layer_decay` replaces what a method itself has, but not what a plan's stages have; `peft_options` go to the
    adapters of a method.

    Raises:
        UserError: a method or argument that the model cannot take.
    """
    spec = MethodSpec.parse(method)
    common = (groups, epochs, learning_rate, head_lr_multiplier)
    if spec.own_stages:
        return plan_stages(str(spec), spec.own_stages, *common, layer_decay, max_steps, new_head)
    stages = tuple(replace(stage, peft_options=peft_options or {}) for stage in spec.stages(groups))
    if layer_decay is not None:
        stages = tuple(replace(stage, layer_decay=layer_decay) for stage in stages)
    if layer_decay not in (None, 1) and all(stage.trains == "head" for stage in stages):
        raise UserError(
            f"`--layer_decay` acts on blocks, and method '{spec}' trains the head alone.",
            option="layer_decay",
            value=layer_decay,
            hint="Leave it out.",
        )
    return plan_stages(str(spec), stages, *common, max_steps=max_steps)
