"""Out of memory: the batch is halved, and the work goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from hf_ft.environment.console import print_on_main

if TYPE_CHECKING:
    from transformers import TrainingArguments

Result = TypeVar("Result")


MEMORY = "memory   {} ran out of it at {:,} examples a batch: {:,} are used"
"""What is said: what had such batches, their size, and the size that fits."""


def memory_ran_out(error: BaseException) -> bool:
    """Whether an error says that the memory of the device did not suffice; then what is cached there is freed."""
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    if not (isinstance(error, Exception) and should_reduce_batch_size(error)):
        return False
    clear_device_cache(garbage_collection=True)
    return True


def with_halved_batches(run: Callable[[int], Result], size: int, what: str, args: TrainingArguments) -> Result:
    """Return `run(size)`, with half the size again and again while memory runs out; says so once.

    Args:
        what: What has batches of that size, such as "scoring".

    Raises:
        RuntimeError: memory runs out even at size 1.
    """
    whole = size
    while True:
        try:
            found = run(size)
        except RuntimeError as error:
            if size <= 1 or not memory_ran_out(error):
                raise
        else:
            if size < whole:
                print_on_main(MEMORY.format(what, whole, size), args)
            return found
        size //= 2
