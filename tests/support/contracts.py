"""What must hold for every architecture, as functions of a tiny model: training, saving, reloading, padding.

Nothing here knows an architecture either. The reference for what may move is a plain backward pass without hf_ft.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, TrainingArguments, default_data_collator

from hf_ft.environment.signals import Stop
from hf_ft.feature_cache.rows import PrebatchedCollator
from hf_ft.methods.method_spec import plan_method
from hf_ft.methods.stages import AppliedStage
from hf_ft.models import adapters
from hf_ft.models.freezing import FrozenMode, ensure_gradients, modules_in_eval, plain_name, set_trainable
from hf_ft.models.grouping import DepthGroups
from hf_ft.models.optimizer_groups import rated_groups
from hf_ft.models.tracing import example_inputs
from hf_ft.training.data_order import SeededRows
from hf_ft.training.divergence import DivergenceGuard
from hf_ft.training.trainer import StageTrainer

STEPS, RATE, EXAMPLES = 2, 1e-3, 4
SAME = 1e-3
"""Largest difference of logits that is rounding, relative to their scale."""


def labels_for(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A label for each example, or for each token of a token classifier."""
    with torch.no_grad():
        shape = model(**inputs).logits.shape[:-1]
    return (torch.arange(shape.numel()) % model.config.num_labels).reshape(shape)


def with_gradient(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> set[str]:
    """The parameters that one plain backward pass in training mode gives a gradient."""
    plain = copy.deepcopy(model).train().requires_grad_(True)
    plain(**inputs, labels=labels).loss.backward()
    return {name for name, p in plain.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 1e-7}


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer, copied, by the names of the plain model."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {plain_name(name): value.detach().clone() for name, value in named}


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal bit for bit; NaN equals itself."""
    if one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def stages(method: str, groups: DepthGroups) -> tuple[AppliedStage, ...]:
    """The stages of a method at the rate of these tests."""
    return plan_method(method, groups, 1, RATE).stages


@dataclass
class Trained:
    """A model after a few steps: what moved, what the optimizer held, and what was allowed to train."""

    model: Any
    stage: AppliedStage
    moved: set[str]
    still: set[str]
    optimized: set[str]
    trainable: set[str]
    quiet: list[str] = field(default_factory=list)


def train(
    model: PreTrainedModel,
    stage: AppliedStage,
    inputs: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    folder: Path,
) -> Trained:
    """Two steps of a stage by the real trainer on a copy of the model."""
    model = copy.deepcopy(model)
    quiet = modules_in_eval(model, stage)
    trained: Any = model
    if stage.peft:
        trained = adapters.attach(model, stage, stage.peft)
    else:
        set_trainable(model, stage)
        ensure_gradients(model, stage, example_inputs(model))
    frozen = FrozenMode(trained, quiet)
    before = tensors(trained)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=len(labels),
        learning_rate=RATE,
        weight_decay=0.0,
        max_grad_norm=0.0,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    rows = [{**{key: value[i] for key, value in inputs.items()}, "labels": labels[i]} for i in range(len(labels))]
    collate = PrebatchedCollator(default_data_collator)
    trainer = StageTrainer(
        model=trained,
        args=arguments,
        train_dataset=SeededRows(rows, 0, collate),
        data_collator=collate,
        grouping=lambda wrapped: rated_groups(wrapped, stage, 0.0),
        stop=Stop(),
        guard=DivergenceGuard(stage.name, RATE, "--learning_rate", True, lambda: ""),
    )
    trainer.train()
    frozen.remove()
    after = tensors(trained)
    names = {id(parameter): plain_name(name) for name, parameter in trained.named_parameters()}
    assert trainer.optimizer is not None
    return Trained(
        model=trained.eval(),
        stage=stage,
        moved={name for name in before if not same_bits(before[name], after[name])},
        still={name for name in before if same_bits(before[name], after[name])},
        optimized={names[id(p)] for group in trainer.optimizer.param_groups for p in group["params"]},
        trainable={plain_name(name) for name, p in trained.named_parameters() if p.requires_grad},
    )


def logits(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The model's answer in evaluation mode."""
    with torch.no_grad():
        return model.eval()(**inputs).logits.float()


def same_logits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal up to rounding."""
    return one.shape == other.shape and bool((one - other).abs().max() <= SAME * max(1.0, float(one.abs().max())))


def reloaded(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Saved, and loaded by plain `from_pretrained`."""
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder).eval()


def adapter_reloaded(adapted: PeftModel, base: PreTrainedModel, folder: Path) -> PeftModel:
    """The adapter saved by hf_ft, loaded by PEFT on the model that it was trained on."""
    adapters.save_adapter(adapted, folder)
    return PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()


def gradients(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor, checkpointing: bool
) -> dict[str, torch.Tensor]:
    """The gradients of a copy of the model, with or without activation checkpointing."""
    model = copy.deepcopy(model).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(0)
    model(**inputs, labels=labels).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def padded(inputs: Mapping[str, torch.Tensor], by: int, pad: int) -> dict[str, torch.Tensor]:
    """The same texts with padding behind them."""
    filled = {"input_ids": pad, "attention_mask": 0}
    return {
        name: torch.cat([value, torch.full((len(value), by), filled[name], dtype=value.dtype)], dim=1)
        for name, value in inputs.items()
    }


def rows_of(inputs: Mapping[str, torch.Tensor], lengths: tuple[int, ...] = (16, 13, 11, 7)) -> list[dict[str, Any]]:
    """The examples of a batch one by one; texts become shorter ones, which end as they did."""
    rows = []
    for i in range(len(next(iter(inputs.values())))):
        row = {name: value[i] for name, value in inputs.items()}
        if "attention_mask" in row:
            length = lengths[i % len(lengths)]
            row = {name: torch.cat([value[: length - 1], value[-1:]]) for name, value in row.items()}
        rows.append(row)
    return rows


def collator(pad: int, left: bool = False) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """Make batches of such rows: texts padded to the longest, on the right or on the left."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row.get("attention_mask", ())) for row in rows)
        batch = {}
        for name in rows[0]:
            values = [row[name] for row in rows]
            if "attention_mask" in rows[0]:
                fill = pad if name == "input_ids" else -100 if name == "labels" else 0
                if values[0].ndim:
                    filled = [torch.full((longest - len(value),), fill, dtype=value.dtype) for value in values]
                    pairs = zip(filled, values, strict=True) if left else zip(values, filled, strict=True)
                    values = [torch.cat(pair) for pair in pairs]
            batch[name] = torch.stack(values)
        return batch

    return collate
