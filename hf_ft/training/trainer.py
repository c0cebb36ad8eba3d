"""The `Trainer` of a stage: learning rates by depth group, reproducible batches, atomic checkpoints."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler, find_batch_size

from hf_ft.data import Readers, start_worker
from hf_ft.environment import Stop, exception_of, with_halved_batches
from hf_ft.feature_cache import CachedRows, CachedStage, row_lengths
from hf_ft.training import checkpoints
from hf_ft.training.data_order import EpochOrder, balanced_order
from hf_ft.training.data_wait import DataWait
from hf_ft.training.divergence import DivergenceGuard
from hf_ft.training.pooled_metrics import LOSS
from hf_ft.training.token_batches import FilledBatches, TokenBatches, TokenBatchSampler
from hf_ft.training.weight_average import AverageUpdates, WeightAverage


class StageTrainer(Trainer):
    """`Trainer` with a learning rate per depth group, logs that count over all stages, and atomic checkpoints.

    Its training rows are `SeededRows`. `most` is how many checkpoints stay on disk, besides those of `needed`.

    Args:
        grouping: The optimizer groups of a model.
        steps_before: Steps of earlier stages; `epochs_before` likewise.
        stop: The signals that end the process.
        guard: Ends training where it diverges.
        make_average: Makes the average of weights that evaluations and checkpoints have; None without one.
        needed: The checkpoints that stay on disk whatever `most` says, besides the best and the newest.
        order: Makes the order of the rows in an epoch, where the objective needs one of its own.
        batches: The training batches, where they are filled by tokens; those of evaluations are then as well.

    Attributes:
        evaluated: The cached validation split, where the stage runs uncached and its evaluations need not.
    """

    def __init__(
        self,
        *args: Any,
        grouping: Callable[[Any], list[dict[str, Any]]],
        steps_before: int = 0,
        epochs_before: float = 0.0,
        stop: Stop,
        guard: DivergenceGuard,
        make_average: Callable[[], WeightAverage] | None = None,
        needed: Callable[[Any], Collection[Path]] = lambda _: (),
        order: Callable[[torch.Generator], Any] | None = None,
        batches: TokenBatches | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.guard, self.make_average, self.needed = guard, make_average, needed
        self.average: WeightAverage | None = None
        self.resumed_from: Path | None = None
        self.grouping, self.steps_before, self.epochs_before = grouping, steps_before, epochs_before
        self.order, self.batches = order, batches
        self.eval_tokens = batches.tokens if batches else 1
        self.evaluated = cast(CachedStage | None, None)
        self.loss_scale: float | None = None
        self.wait = DataWait(events=self.args.device.type == "cuda")
        self.readers, self.eval_workers = cast(Readers | None, None), self.args.dataloader_num_workers
        self.stop, self.best = stop, cast(Path | None, None)
        self.most, self.args.save_total_limit = self.args.save_total_limit, None  # `Trainer` removes too early
        self.add_callback(_Endings(self))
        if make_average is not None:
            self.add_callback(AverageUpdates(self))

    def train_from(self, checkpoint: checkpoints.Checkpoint | None) -> None:
        """Train from the beginning or from a checkpoint; signals wait for the current step.

        If training was over after the checkpoint, its weights (or the best ones) are loaded: `Trainer` would make one
        step too many.
        """
        self.best = checkpoint.best if checkpoint else None
        if checkpoint and checkpoint.over:
            self.state = TrainerState.load_from_json(str(checkpoint.folder / "trainer_state.json"))
            self.state.best_model_checkpoint = str(self.best) if self.best else None
            best = self.best if self.args.load_best_model_at_end else None
            self._load_from_checkpoint(str(best or checkpoint.folder))
        else:
            self.resumed_from = checkpoint.folder if checkpoint else None
            try:
                self.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
            finally:
                self.stop.waiting = False
        # Each process has read the best checkpoint on its own; the first one may remove it once all have.
        self.accelerator.wait_for_everyone()

    # Averaged weights: evaluations and checkpoints have them, steps the others.

    def begin_average(self) -> None:
        """Make the average of weights, or continue that of the checkpoint from which training is resumed."""
        assert self.make_average is not None
        self.average = self.make_average()
        if self.resumed_from is not None:
            self.average.restore(self.resumed_from)

    def _averaged(self) -> AbstractContextManager[None]:
        """A block in which the model has the averaged weights, if there are any."""
        return nullcontext() if self.average is None else self.average.in_place()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the averaged weights, if there are any; a loss that is not finite ends training."""
        with self._averaged(), self.wait.pausing():
            metrics = with_halved_batches(
                lambda size: self._evaluated(size, *args, **kwargs),
                self.args.per_device_eval_batch_size,
                "evaluation",
                self.args,
            )
        if self.is_in_train:
            self.guard.check_evaluation(metrics.get("eval_loss"), self)
        return metrics

    def _evaluated(self, size: int, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate in batches of a size, which later evaluations have as well."""
        if size < self.args.per_device_eval_batch_size:
            self.eval_tokens = max(1, self.eval_tokens * size // self.args.per_device_eval_batch_size)
            self.args.per_device_eval_batch_size = size
        return super().evaluate(*args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Leave the averaged weights in the model, before `Trainer` loads the best checkpoint if it does."""
        if self.average is not None:
            self.average.settle()
            self.average = None
        return super()._finalize_training(*args, **kwargs)  # type: ignore[no-untyped-call]

    # Divergence.

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch the batches of a step, and count the time that it waits for them."""
        with self.wait.fetching():
            return super().get_batch_samples(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run one batch; a loss that is not finite ends training."""
        loss = super().training_step(*args, **kwargs)
        self.guard.check_loss(loss, self)
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """The norm of the gradients; one that is not finite ends training before the step."""
        norm = super()._get_grad_norm(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.guard.check_gradient(norm, self)
        return norm

    # Checkpoints.

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether an evaluation is the best so far; of equal ones the later, when the rate has decayed further.

        On a small validation split many evaluations are equal, and `Trainer` would keep the first of them.
        """
        if super()._determine_best_metric(metrics, trial):
            return True
        name = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        if metrics.get(name) != self.state.best_metric:
            return False
        self.state.best_global_step = self.state.global_step
        return True

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint under a temporary name and rename it when it is complete; only then remove older ones."""
        stage, step = Path(str(self.args.output_dir)), self.state.global_step
        folder, begun = stage / f"checkpoint-{step}", stage / checkpoints.WRITING / f"checkpoint-{step}"
        if self.args.should_save:
            checkpoints.begin(folder)
        self.accelerator.wait_for_everyone()
        earlier = self.state.best_model_checkpoint
        try:
            with checkpoints.writing(folder), self.wait.pausing():
                self.args.output_dir = str(begun.parent)
                super()._save_checkpoint(model, trial)
                self.args.output_dir = str(stage)
                best = stage / f"checkpoint-{self.state.best_global_step}"
                known = best == folder or best.is_dir()
                self.state.best_model_checkpoint = str(best) if known else earlier
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    self._finish(begun, folder)
        finally:
            self.args.output_dir = str(stage)
            if self.args.should_save:
                shutil.rmtree(begun.parent, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _finish(self, begun: Path, folder: Path) -> None:
        checkpoints.unanchored(begun)
        best = Path(self.state.best_model_checkpoint) if self.state.best_model_checkpoint else None
        over = self.control.should_training_stop or self.state.global_step >= self.state.max_steps
        checkpoints.finish(begun, folder, {"best": best.name if best else None, "over": over})
        kept = {*self.needed(self), *([best] if best else [])}
        checkpoints.rotate(folder.parent, self.most, kept)

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """Evaluate; where rows are parts of examples, the loss is that of the examples.

        `Trainer` takes the mean of the losses of batches, as if all had the same number of rows.
        """
        self.loss_scale = None if self.batches is None else len(dataloader) / len(dataloader.dataset)
        with self._on_features():
            found = super().evaluation_loop(dataloader, *args, **kwargs)
        values = found.metrics or {}
        for name in [name for name in values if name.endswith(f"_{LOSS}")]:
            values[name.removesuffix(LOSS) + "loss"] = values.pop(name)
        return found

    @contextmanager
    def _on_features(self) -> Iterator[None]:
        """A block in which the upper part of the model answers, where validation is cached and training is not."""
        if self.evaluated is None:
            yield
            return
        whole, self.model = self.model, self.evaluated.upper
        try:
            with self.evaluated.split.installed(), self.accelerator.autocast():
                yield
        finally:
            self.model = whole

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Run one batch; its loss counts by its rows where batches have different numbers of them."""
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        if loss is not None and self.loss_scale is not None:
            loss = loss * (find_batch_size(inputs) * self.loss_scale)
        return loss, logits, labels

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with steps and epochs counted over all stages; trackers and learning curves read them from the state."""
        step, epoch = self.state.global_step, self.state.epoch
        self.state.global_step = step + self.steps_before
        self.state.epoch = (epoch or 0.0) + self.epochs_before
        try:
            super().log(logs, start_time)
        finally:
            self.state.global_step, self.state.epoch = step, epoch

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save checkpoints with the averaged weights if there are any, and with the parameter names of the model.

        `save_pretrained` writes the names of older versions (`vit.encoder.layer.0.attention.attention.query`), which
        `Trainer` does not translate when it resumes or loads the best checkpoint: it warns and leaves them.
        Not needed once https://github.com/huggingface/transformers/issues/48805 is fixed.
        """
        model: Any = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        renames = isinstance(model, PreTrainedModel)  # adapters keep their names
        if renames:
            model.save_pretrained = functools.partial(model.save_pretrained, save_original_format=False)
        try:
            with self._averaged():
                super()._save(output_dir, _contiguous(self.model) if state_dict is None else state_dict)
        finally:
            if renames:
                del model.save_pretrained
        if self.average is not None and output_dir is not None and not self.args.save_only_model:
            self.average.save(Path(output_dir))

    def _get_dataloader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> Any:
        """The loader of training or evaluation, whose workers ignore signals."""
        if is_training or self.eval_workers:
            return self._loader(*args, is_training=is_training, **kwargs)
        # Without workers, a loader refuses what is for workers.
        alone = {
            "num_workers": 0,
            "multiprocessing_context": None,
            "prefetch_factor": None,
            "persistent_workers": False,
        }
        before = {name: getattr(self.args, f"dataloader_{name}") for name in alone}
        try:
            for name, value in alone.items():
                setattr(self.args, f"dataloader_{name}", value)
            return self._loader(*args, **kwargs)
        finally:
            for name, value in before.items():
                setattr(self.args, f"dataloader_{name}", value)

    def _loader(self, *args: Any, **kwargs: Any) -> Any:
        if self.batches is not None:
            return self._token_loader(*args, **kwargs)
        loader = super()._get_dataloader(*args, **kwargs)
        inner = getattr(loader, "base_dataloader", loader)  # accelerate's has the one that starts the workers in it
        inner.worker_init_fn = functools.partial(start_worker, inner.worker_init_fn)
        return loader

    def _token_loader(self, dataset: Any, *_: Any, is_training: bool = False, **__: Any) -> Any:
        """The loader of batches that are filled by tokens; `Trainer` makes those of one size only."""
        assert self.batches is not None
        sampler: Any
        if is_training:
            sampler = TokenBatchSampler(self.batches, lambda: int(self.state.epoch or 0))
        else:
            sampler = FilledBatches(dataset, self.eval_tokens)
        args = self.args
        loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=functools.partial(start_worker, None),
        )
        return self.accelerator.prepare(loader)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """A reproducible order for each epoch; with `group_by_length`, batches of similar length."""
        seeded: Any = self.train_dataset
        rows, strategy = seeded.rows, self.args.train_sampling_strategy
        lengths = row_lengths(rows) if strategy == "group_by_length" else None
        if self.order is not None:
            order = self.order
        elif seeded.classes is not None:
            order = self._balanced_order(seeded.classes, lengths)
        elif strategy == "sequential":
            order = lambda _: range(len(rows))  # noqa: E731
        elif lengths is not None:
            batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
            listed = lengths.tolist()
            order = lambda generator: LengthGroupedSampler(batch, lengths=listed, generator=generator)  # noqa: E731
        elif strategy == "random" or isinstance(rows, CachedRows):
            order = lambda generator: torch.randperm(len(rows), generator=generator).tolist()  # noqa: E731
        else:
            return super()._get_train_sampler(rows)
        return self._epochs(order)

    def _epochs(self, order: Callable[[torch.Generator], Any]) -> EpochOrder:
        """A sampler with a new order for each epoch."""
        seeded: Any = self.train_dataset
        return EpochOrder(len(seeded.rows), seeded.seed, lambda: int(self.state.epoch or 0), order)

    def _balanced_order(self, classes: torch.Tensor, lengths: Any) -> Callable[[torch.Generator], list[int]]:
        """An order in which classes are equally frequent; texts of similar length stay in one batch."""
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps

        def order(generator: torch.Generator) -> list[int]:
            drawn = balanced_order(classes, generator)
            if lengths is None:
                return drawn
            listed = [int(lengths[row]) for row in drawn]
            return [drawn[place] for place in LengthGroupedSampler(batch, lengths=listed, generator=generator)]

        return order

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """The order of `evaluation_order`, which needs the least padding."""
        order = evaluation_order(eval_dataset, self.args.world_size)
        return order or (SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Let `Trainer` build whichever optimizer `args.optim` names, then regroup its parameters by rate."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer() if model is None else super().create_optimizer(model)
        if fresh:
            options = {
                key: value
                for key, value in optimizer.param_groups[0].items()
                if key not in ("params", "lr", "weight_decay", "initial_lr")
            }
            optimizer.param_groups = [{**options, **group} for group in self.grouping(model or self.model)]
        return optimizer


def _contiguous(model: Any) -> dict[str, torch.Tensor] | None:
    """The tensors of a model that safetensors takes, where some are stored channels last; None where none is."""
    state: dict[str, torch.Tensor] = model.state_dict()
    if all(tensor.is_contiguous() for tensor in state.values()):
        return None
    return {name: tensor.contiguous() for name, tensor in state.items()}


def evaluation_order(rows: Any, processes: int) -> list[int] | None:
    """The order in which rows are evaluated: texts from the longest to the shortest; None for their own order."""
    lengths = row_lengths(rows)
    if lengths is None or processes > 1:
        return None
    order: list[int] = np.argsort(-lengths, kind="stable").tolist()
    return order


class _Endings(TrainerCallback):
    """Lets a signal end training after a checkpoint, and a checkpoint wait for the evaluation of its step."""

    def __init__(self, trainer: StageTrainer) -> None:
        self.trainer, self.postponed = trainer, False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore the path of the best checkpoint, since the folder may have been moved."""
        state.best_model_checkpoint = str(self.trainer.best) if self.trainer.best else None
        self.trainer.stop.check()
        self.trainer.stop.waiting = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save where a signal asks for it.

        After the last step of an epoch this waits for the end of the epoch: a run resumed from the checkpoint starts
        with the next epoch, and would miss the evaluation.
        """
        saves = control.should_save or bool(self._asked())
        self.postponed = saves and (float(state.epoch).is_integer() or control.should_training_stop)
        control.should_save = saves and not self.postponed

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the checkpoint that waited."""
        control.should_save = control.should_save or self.postponed or bool(self._asked())
        self.postponed = False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End training if a signal asked for it; the checkpoint is written."""
        number = self._asked()
        if number:
            raise exception_of(number)

    def _asked(self) -> int:
        """The signal that any of the processes has received, 0 for none; a collective call."""
        if self.trainer.args.world_size <= 1:
            return self.trainer.stop.number
        number = torch.tensor(self.trainer.stop.number, device=self.trainer.args.device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        return int(number)
