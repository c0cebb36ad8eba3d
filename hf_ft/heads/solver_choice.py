"""Whether a stage solves its linear head on cached features, or trains it by gradient steps."""

from __future__ import annotations

from collections.abc import Sequence

from hf_ft.errors import UserError
from hf_ft.methods import AppliedStage
from hf_ft.models import DepthGroup, linear_head
from hf_ft.settings import Config

STEP_OPTIONS = {
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "lr_scheduler_type",
    "optim",
    "head_lr_multiplier",
    "early_stopping_patience",
}
"""Options that only mean something for gradient steps: setting one for a head alone asks for steps."""


def check_solver(config: Config, stages: Sequence[AppliedStage]) -> None:
    """Raise where the user asks for a solved head and no stage trains the head alone.

    Raises:
        UserError: with the methods that have such a stage.
    """
    if config.head_solver == "exact" and not any(stage.trains_head_alone for stage in stages):
        raise UserError(
            f"--head_solver exact: no stage of method '{config.method}' trains the head alone. Use --method head or "
            "lp_ft, or leave out --head_solver."
        )


def should_solve(config: Config, stages: Sequence[AppliedStage], stage: AppliedStage) -> bool:
    """Whether the head of a stage is to be solved, provided that it is linear and its features are cached.

    The user asks for steps by `head_solver`, by step options of the stage itself, or by step options of the run where
    these can mean no other stage. With `lp_ft`, a number of epochs or a learning rate is that of the fine-tuning stage.
    """
    if config.head_solver == "sgd" or not stage.trains_head_alone:
        return False
    if config.head_solver == "exact":
        return True
    only = all(other.trains_head_alone for other in stages)
    return not stage.configures_steps and not (only and STEP_OPTIONS & config.explicit)


def expects_solved_head(
    config: Config, stages: Sequence[AppliedStage], stage: AppliedStage, groups: Sequence[DepthGroup]
) -> bool:
    """Whether the head of a stage will be solved, as far as that is known before the model is split."""
    return should_solve(config, stages, stage) and config.cache != "off" and linear_head(groups)


def options_against_solver(config: Config, stage: AppliedStage, groups: Sequence[DepthGroup]) -> list[str]:
    """The explicit options because of which a head that could be solved is trained by steps."""
    solvable = config.head_solver == "auto" and stage.trains_head_alone and linear_head(groups)
    if not solvable or config.cache == "off" or stage.configures_steps:
        return []
    return sorted(STEP_OPTIONS & config.explicit)
