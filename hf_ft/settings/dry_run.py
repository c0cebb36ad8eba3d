"""A dry run of `Trainer`: whether it takes the arguments at all, tried before any data are read.

`TrainingArguments` accepts much that `Trainer` refuses when the first step is near: an optimizer whose package is not
installed, options that an optimizer or a schedule does not have, FSDP in a single process. So what `Trainer` makes of
its arguments is made once here, for a model of one layer.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hf_ft.errors import UserError

if TYPE_CHECKING:
    from transformers import TrainingArguments


def try_arguments(args: TrainingArguments) -> None:
    """Build a `Trainer`, its optimizer, schedule and data loader from the arguments, and discard them.

    Raises:
        UserError: One of them cannot be built; with the options at fault and the reason.
    """
    import torch
    from transformers import Trainer

    if args.deepspeed:  # makes these itself, from its own configuration
        return
    args = copy.deepcopy(args)
    args.report_to, args.load_best_model_at_end, args.metric_for_best_model = [], False, "loss"
    args.train_sampling_strategy = "random"  # others ask the data
    args.push_to_hub = False  # `Trainer` would make the repository
    with tempfile.TemporaryDirectory() as folder:
        args.output_dir = folder
        with _refused("The settings of TrainingArguments"):
            row = [{"x": 0.0}]
            trainer = Trainer(model=_one_layer(), args=args, train_dataset=row, eval_dataset=row)
            trainer.get_train_dataloader()
        if args.torch_compile_mode:
            with _refused(_written(args, "torch_compile_mode", "torch_compile_backend")):
                torch.compile(
                    _one_layer(), backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode
                )
        if args.optim_target_modules:  # names layers of the user's model
            return
        with _refused(_written(args, "optim", "optim_args")):
            trainer.create_optimizer()
        with _refused(_written(args, "lr_scheduler_type", "lr_scheduler_kwargs")):
            trainer.create_scheduler(num_training_steps=10)


def _one_layer() -> Any:
    """A model of one layer, with a config, which some settings make `Trainer` ask for."""
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    class OneLayer(PreTrainedModel):
        config_class = PreTrainedConfig
        supports_gradient_checkpointing = True

        def __init__(self, config: PreTrainedConfig) -> None:
            super().__init__(config)
            self.layer = torch.nn.Linear(1, 1)

    return OneLayer(PreTrainedConfig())


@contextmanager
def _refused(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # as many kinds as there are optimizers
        text = " ".join(str(error).split()).rstrip(".")
        why = text if isinstance(error, ValueError | ImportError | TypeError) else f"{type(error).__name__}: {text}"
        raise UserError(f"{what} cannot be used: {why}.") from error


def _written(args: TrainingArguments, *names: str) -> str:
    """Options as a user writes them, without those that have no value."""
    values: dict[str, Any] = {name: getattr(args, name) for name in names}
    return " ".join(f"--{name} {getattr(value, 'value', value)}" for name, value in values.items() if value)
