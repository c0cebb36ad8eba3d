"""Whether a stage solves its linear head on cached features, or trains it by gradient steps."""

from __future__ import annotations

from collections.abc import Sequence

from hf_ft.errors import UserError
from hf_ft.methods import AppliedStage
from hf_ft.models import DepthGroup, linear_head
from hf_ft.settings import Config, asks_for_steps


def check_solver(config: Config, stages: Sequence[AppliedStage]) -> None:
    """Raise where the user asks for a solved head and no stage can have one.

    Raises:
        UserError: No stage trains the head alone, or the only stages are to train it on random images.
    """
    if config.head_solver == "exact" and not any(stage.trains_head_alone for stage in stages):
        raise UserError(
            f"--head_solver exact: no stage of method '{config.method}' trains the head alone. Use --method head or "
            "lp_ft, or leave out --head_solver."
        )
    if config.head_solver == "exact" and (names := config.random_images) and _only_heads(stages):
        raise UserError(
            f"--head_solver exact solves the head on plain images, and --{names[0]} changes them while it trains.",
            option=names[0],
            value=getattr(config, names[0]),
            hint="Leave out one of the two.",
        )


def should_solve(config: Config, stages: Sequence[AppliedStage], stage: AppliedStage) -> bool:
    """Whether the head of a stage is to be solved, provided that it is linear and its features are cached.

    The user asks for steps by `head_solver`, by step options of the stage itself, or by step options of the run where
    these can mean no other stage. With `lp_ft`, a number of epochs, a learning rate or an augmentation is that of the
    fine-tuning stage.
    """
    if config.head_solver == "sgd" or not stage.trains_head_alone or stage.objective is not None:
        return False
    if config.loss == "focal":  # it is not convex
        return False
    if config.head_solver == "exact":
        return True
    return not stage.configures_steps and not (_only_heads(stages) and step_options(config))


def step_options(config: Config) -> list[str]:
    """The explicit options of a run that only mean something for gradient steps."""
    return sorted(asks_for_steps(config) | {*config.random_images})


def _only_heads(stages: Sequence[AppliedStage]) -> bool:
    return all(stage.trains_head_alone for stage in stages)


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
    return step_options(config)
