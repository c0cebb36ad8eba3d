"""The steps of a stage in the fastest form: chosen before the first one, and stored with the stage for `--resume`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hf_ft.autotune import Autotuner, Variant, Work, applied
from hf_ft.feature_cache import precision_of
from hf_ft.methods import AppliedStage
from hf_ft.training import checkpoints
from hf_ft.training.run import Run
from hf_ft.training.trainer import StageTrainer

TRAINING, FEATURES = "training", "features"


def pinned_variants(
    earlier: Mapping[str, Any] | None, folder: Path, repeated: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, Mapping[str, str]]:
    """What an earlier process decided about a stage that is resumed or repeated, so that it ends with the same tensors.

    Without a checkpoint, training starts over and may be decided again; with one, it ran as usual unless the stage says
    otherwise.

    Args:
        earlier: What the stage recorded when it began; None if it has not begun.
        folder: The folder of the stage.
        repeated: How the stage ran in the run that is repeated; what is not named ran as usual. None for a new run.
    """
    before: dict[str, Mapping[str, str]] = {} if repeated is None else {FEATURES: {}, TRAINING: {}, **repeated}
    if earlier is None:
        return before
    ran: dict[str, Mapping[str, str]] = {FEATURES: {}}
    if checkpoints.steps(folder):
        ran[TRAINING] = {}
    return before | ran | dict(earlier.get("autotune") or {})


def recorded_variants(tuner: Autotuner | None) -> dict[str, dict[str, str]]:
    """What a stage records about the forms of its steps, as `pinned_variants` reads it."""
    choices = tuner.choices if tuner else []
    return {one.what: Variant(one.memory_format, one.attention).changes() for one in choices}


@contextmanager
def tuned_steps(
    run: Run, stage: AppliedStage, folder: Path, trainer: StageTrainer, tuner: Autotuner | None, steps: int
) -> Iterator[None]:
    """Within the block, the model of a trainer runs in the fastest form for training; see `hf_ft.autotune`.

    Args:
        steps: Of the optimizer in the whole stage.
    """
    if tuner is None or stage.objective is not None:  # a batch of contrasted pairs is none of single rows
        yield
        return
    variant = tuner.choose(_work(trainer, steps))
    chosen = recorded_variants(tuner)
    if run.args.should_save and TRAINING in chosen:
        begun = checkpoints.read_file(folder / checkpoints.BEGUN) or {}
        checkpoints.write_file(folder / checkpoints.BEGUN, {**begun, "autotune": chosen})
    with applied(_module(trainer), variant):
        yield


def _module(trainer: StageTrainer) -> torch.nn.Module:
    module: torch.nn.Module = trainer.accelerator.unwrap_model(trainer.model)
    return module


def _work(trainer: StageTrainer, steps: int) -> Work:
    """The training of a stage, as the autotuner tries it."""
    args, rows, module = trainer.args, trainer.train_dataset, _module(trainer)
    batch_size = args.per_device_train_batch_size

    def batch(size: int) -> Any:
        found = trainer.data_collator(rows.__getitems__(list(range(min(size, len(rows))))))  # type: ignore
        return trainer._prepare_inputs(found)

    def step(inputs: Mapping[str, Any]) -> Sequence[torch.Tensor]:
        module.train()
        with trainer.compute_loss_context_manager(), trainer.accelerator.autocast():
            loss, outputs = trainer.compute_loss(module, dict(inputs), return_outputs=True)
        loss.backward()
        return [loss, outputs["logits"]]

    return Work(
        what=TRAINING,
        model=module,
        batch=batch,
        step=step,
        examples=steps * args.gradient_accumulation_steps * batch_size,
        batch_size=min(batch_size, len(rows)),  # type: ignore[arg-type]
        device=args.device,
        precision=precision_of(args),
    )
