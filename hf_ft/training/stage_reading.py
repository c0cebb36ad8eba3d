"""How a stage reads its data: worker processes for its loaders, and what is said about waiting for them."""

from __future__ import annotations

from typing import Any

from hf_ft.data import Readers, choose_readers, prepare_workers
from hf_ft.environment import cores, print_on_main
from hf_ft.feature_cache import CachedImages, transform_of
from hf_ft.training.data_wait import waiting_line
from hf_ft.training.run import Run
from hf_ft.training.trainer import StageTrainer


def set_readers(run: Run, trainer: StageTrainer) -> None:
    """Set how many processes read the examples of a stage that trains by steps."""
    args, seeded, explicit = trainer.args, trainer.train_dataset, run.config.explicit
    if args.device.type == "cuda" and "dataloader_pin_memory" not in explicit:
        args.dataloader_pin_memory = True
        trainer.accelerator.dataloader_config.non_blocking = True
    if "dataloader_num_workers" in explicit:
        prepare_workers(args, args.dataloader_num_workers)
        trainer.readers = Readers(args.dataloader_num_workers, "set by --dataloader_num_workers")
        return
    rows: Any = seeded.rows  # type: ignore[union-attr]
    step = args.train_batch_size * args.gradient_accumulation_steps
    passes = args.num_train_epochs if args.max_steps < 0 else args.max_steps * step / len(rows)
    read = seeded.__getitems__ if _takes_time(rows) else None  # type: ignore[union-attr]
    trainer.readers = found = choose_readers(read, len(rows), passes, args.train_batch_size, args)
    prepare_workers(args, found.workers)
    trainer.eval_workers = found.workers if _takes_time(trainer.eval_dataset) else 0
    if found.workers:
        print_on_main(f"reading  by {found.workers} worker processes: {found.reason}", args)


def _takes_time(rows: Any) -> bool:
    """Whether rows are made when they are read, as decoded images are."""
    return isinstance(rows, CachedImages) or transform_of(rows) is not None


def report_waiting(stage: str, trainer: StageTrainer) -> dict[str, Any]:
    """Print how long a stage waited for data if that is notable, with the fix; returns it for the record."""
    facts: dict[str, Any] = trainer.wait.facts()
    workers = trainer.args.dataloader_num_workers
    line = waiting_line(f"stage '{stage}'", facts["share"], workers, cores(), facts["device_idle"])
    if line and facts["waited"] >= 1:
        print_on_main(line, trainer.args)
    assert trainer.readers is not None
    return {**trainer.readers.facts(), **facts}
