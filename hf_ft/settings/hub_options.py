"""`--push_to_hub` and the options beside it: the result is published at the end of the run, as `hf-ft push` does it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hf_ft.errors import UserError

HUB_OPTIONS = ("hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push", "hub_revision")
"""Options of `TrainingArguments` that say how to publish."""
AT_THE_END = "end"


def check_hub_options(training: Mapping[str, Any], explicit: Collection[str], has_result: bool) -> None:
    """Check that each option of publishing has an effect: nothing but the finished result is ever published.

    Args:
        training: The fields of `TrainingArguments`.
        explicit: The names of the options that the user wrote.
        has_result: Whether there is a single result, as opposed to many trials.

    Raises:
        UserError: An option without effect, or one that would publish something else.
    """
    named = [name for name in HUB_OPTIONS if name in explicit]
    if _to_trackio(training):  # whose Space is private too
        named = [name for name in named if name != "hub_private_repo"]
    if named and "push_to_hub" not in explicit:
        raise UserError(
            f"--{named[0]} says how to publish, and nothing is published without --push_to_hub.",
            option=named[0],
            value=training.get(named[0]) if named[0] != "hub_token" else None,
            hint="Add --push_to_hub, or leave it out.",
        )
    if not training.get("push_to_hub"):
        return
    if not has_result:
        raise UserError(
            "--push_to_hub does not go with an experiment, whose trials are not published.",
            option="push_to_hub",
            hint="Leave it out, and publish the run of your choice with `hf-ft push`.",
        )
    strategy = training.get("hub_strategy", AT_THE_END)
    strategy = str(getattr(strategy, "value", strategy))
    if "hub_strategy" in explicit and strategy != AT_THE_END:
        raise UserError(
            f"--hub_strategy {strategy} is not supported: only the finished result is published, not its checkpoints.",
            option="hub_strategy",
            value=strategy,
            choices=(AT_THE_END,),
        )
    if training.get("hub_always_push"):
        raise UserError(
            "--hub_always_push is not supported: there is one upload, at the end.",
            option="hub_always_push",
            hint="Leave it out.",
        )


def _to_trackio(training: Mapping[str, Any]) -> bool:
    wanted = training.get("report_to") or ()
    return bool({"trackio", "all"} & {*([wanted] if isinstance(wanted, str) else wanted)})
