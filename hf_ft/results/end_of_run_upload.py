"""Publishing the result of a run at its end; a failed upload leaves the result complete and says how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_ft.errors import UserError
from hf_ft.publishing import destination_of, publish_finished
from hf_ft.results.finetune_result import FinetuneResult
from hf_ft.storage import is_first_process


class NotPublished(UserError):
    """The result of a run is complete, but was not published.

    Args:
        error: Why not.
        result: The result.
        command: The command that publishes it.
    """

    def __init__(self, error: UserError, result: FinetuneResult, command: str) -> None:
        complete = f"The result in {result.output_dir} is complete"
        repeat = f"{complete}." if command in error.hint else f"{complete}; publish it with `{command}`."
        super().__init__(error.problem, option=error.option, value=error.value, hint=f"{error.hint} {repeat}".strip())
        self.result = result


def publish_result(result: FinetuneResult, training: Mapping[str, Any]) -> FinetuneResult:
    """Publish a result if the fields of `TrainingArguments` say so, and return it.

    Raises:
        NotPublished: It cannot be published.
    """
    destination = destination_of(training)
    if destination is None or not is_first_process():
        return result
    try:
        result.publication = publish_finished(result.output_dir, destination)
    except UserError as error:
        raise NotPublished(error, result, destination.command) from error
    return result
