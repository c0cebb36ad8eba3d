"""The plan of a run: its method applied to the depth groups of its model."""

from __future__ import annotations

import math

from transformers import TrainingArguments

from hf_ft.errors import UserError
from hf_ft.methods import DEEP_HEAD_RATE, Plan, plan_method
from hf_ft.models import DepthGroups, linear_head
from hf_ft.settings import Config
from hf_ft.tasks import Task, get_task


def make_plan(
    config: Config, args: TrainingArguments, groups: DepthGroups, train_examples: int, task: Task | None = None
) -> Plan:
    """Apply the method to the model's depth groups.

    Epochs that the user did not set follow from the size of the data, a learning rate from the kind and size of the
    network.

    Raises:
        UserError: a method that the model cannot take, such as `last_n` with more blocks than there are.
    """
    if args.dataloader_drop_last and train_examples < args.per_device_train_batch_size * args.world_size:
        raise UserError(
            f"--dataloader_drop_last leaves nothing to train on: {train_examples:,} examples make no batch of "
            f"{args.per_device_train_batch_size:,}. Leave it out, or set --per_device_train_batch_size."
        )
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    modality = (task or get_task(config.task)).modality.method_defaults
    epochs, rate = args.num_train_epochs, args.learning_rate
    if "num_train_epochs" not in config.explicit:
        epochs = config.method.default_epochs(modality, math.ceil(train_examples / batch))
    if "learning_rate" not in config.explicit:
        deep = config.method.name == "head" and not linear_head(groups)
        rate = DEEP_HEAD_RATE if deep else config.method.default_rate(modality, groups)
    return plan_method(
        config.method,
        groups,
        epochs,
        rate,
        config.head_lr_multiplier or 1.0,
        config.layer_decay,
        args.max_steps,
        peft_options=config.adapters[0][1] if config.adapters else None,
        new_head=not config.keep_head,
    )
