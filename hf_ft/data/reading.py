"""Reading examples while the model works: how many worker processes that takes, and examples read ahead.

Images are decoded and resized when they are read. In the process of the model that takes its time from the model; in
workers it overlaps. Rows depend on seed, epoch and index alone, so results are the same with any number of workers.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hf_ft.environment import cores, ignore_in_worker

if TYPE_CHECKING:
    from transformers import TrainingArguments

FEW = 200
"""Rows below which workers are not considered: they would hardly have started when all is read."""
LEAST = 2.0
"""Seconds of reading, in all, below which workers are not worth their start."""
SAMPLE = 4
STEP = {"cpu": 0.1}
STEP_ELSEWHERE = 0.01
"""Seconds in which a batch should be ready: as long as a short step of a model takes on a CPU, and on a GPU."""
SLOW = 0.05
"""Seconds for a row from which workers are used though the model computes on all cores: one reader would use one."""
MOST = 16
SHARED = Path("/dev/shm")

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Readers:
    """The worker processes that read examples, and why there are as many; `row_seconds` is None if not measured."""

    workers: int
    reason: str
    row_seconds: float | None = None

    def facts(self) -> dict[str, Any]:
        """As `run.json` has it."""
        return asdict(self)


def choose_readers(
    read: Callable[[Sequence[int]], Any] | None, rows: int, passes: float, batch: int, args: TrainingArguments
) -> Readers:
    """Choose how many processes read examples, from the cores, the device and the time that a few rows take.

    Args:
        read: Reads some rows by index; None where rows are in memory, so that reading them takes no time.
        rows: How many there are, which are read `passes` times.
        batch: Rows of a batch.
    """
    import torch

    if read is None:
        return Readers(0, "examples are in memory")
    if rows * passes < FEW:
        return Readers(0, f"fewer than {FEW} examples are read")
    if not sys.platform.startswith("linux"):
        return Readers(0, "workers are started by themselves on Linux only")
    device, here = args.device.type, cores()
    seconds, size = _measured(read, rows)
    each = f"{seconds * 1000:.1f} ms an example"
    if seconds * rows * passes < LEAST:
        return Readers(0, f"{each}, {seconds * rows * passes:.1f} s in all", seconds)
    free = here - (torch.get_num_threads() if device == "cpu" else 1)
    if free < 1 and seconds >= SLOW:
        free = here
    if free < 1 or here == 1:
        used = "the only core" if here == 1 else f"all {here} cores"
        return Readers(0, f"{each}, and the model computes on {used}", seconds)
    wanted = math.ceil(batch * seconds / STEP.get(device, STEP_ELSEWHERE))
    shared = shutil.disk_usage(SHARED).free // max(1, 4 * batch * size) if SHARED.is_dir() else MOST
    found = max(0, min(wanted, free, shared, MOST))
    return Readers(found, f"{each}, {here} cores" + ("" if found else f", too little room in {SHARED}"), seconds)


def _measured(read: Callable[[Sequence[int]], Any], rows: int) -> tuple[float, int]:
    """Seconds and bytes of one row; the first one is not timed, since it imports what reading needs."""
    import torch

    places = [place * (rows - 1) // SAMPLE for place in range(SAMPLE + 1)]
    read(places[:1])
    started = time.perf_counter()
    found = read(places[1:])
    seconds = (time.perf_counter() - started) / SAMPLE
    batches = found if isinstance(found, list) else [found]
    tensors = [value for batch in batches for value in batch.values() if torch.is_tensor(value)]
    return seconds, sum(tensor.numel() * tensor.element_size() for tensor in tensors) // SAMPLE


def prepare_workers(args: TrainingArguments, workers: int) -> None:
    """Set up `TrainingArguments` for data loaders with worker processes.

    Forked workers share the data. tokenizers would warn about the fork, and could wait for threads that are gone:
    `start_worker` switches its threads off there.
    """
    args.dataloader_num_workers = workers
    if workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        if args.dataloader_multiprocessing_context is None and sys.platform.startswith("linux"):
            args.dataloader_multiprocessing_context = "fork"


def start_worker(then: Callable[[int], Any] | None, worker: int) -> None:
    """What a worker does first: it ignores signals, and uses no threads of tokenizers; torch has one thread there."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    ignore_in_worker(then, worker)


def read_ahead(
    read: Callable[[Item], Result], items: Sequence[Item], workers: int, pin: bool = False
) -> Iterator[Result]:
    """Yield `read(item)` for all items in order, read by worker processes while the caller works; 0 reads here."""
    if not workers:
        yield from map(read, items)
        return
    from torch.utils.data import DataLoader

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    loader: Any = DataLoader(
        _Items(read, items),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=min(workers, len(items)),
        pin_memory=pin,
        multiprocessing_context="fork",
        worker_init_fn=functools.partial(start_worker, None),
    )
    yield from loader


class _Items:
    """Items as a dataset for a `DataLoader`."""

    def __init__(self, read: Callable[[Any], Any], items: Sequence[Any]) -> None:
        self.read, self.items = read, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Any:
        return self.read(self.items[place])


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield `work(item)` for all items in order, on as many threads as there are cores, two items ahead of each.

    For work that lets go of the interpreter's lock, as decoding and resizing in Pillow do.
    """
    threads = cores()
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[Result]] = deque()
        try:
            for item in items:
                running.append(pool.submit(work, item))
                if len(running) > 2 * threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
