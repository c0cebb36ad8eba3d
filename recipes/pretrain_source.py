"""Step 1 of transfer learning: pretrain a small image model on a source dataset, as a backbone for other tasks.

    python recipes/pretrain_source.py --dataset D --output_dir OUT [--bf16]

Made for images of 32 x 32 pixels: they are decoded once, stored in memory as bytes and augmented by the batch, and
their size grows from 32 to 64 pixels during training, which saves more than a third of the time. Labels are not
smoothed: the model is no worse on the source and a better backbone (measured in docs/design.md, in line with
Kornblith et al. 2021, https://arxiv.org/abs/2010.16402). `--model` names the architecture, which gets random weights;
it has to support images of any size.
"""

import sys
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import interpolate, pad

from hf_ft import load_model, load_splits, make_plan, parse, save, score, train
from hf_ft.cli.app import run
from hf_ft.modalities.image_transforms import upright_rgb
from hf_ft.tasks.base import Task
from hf_ft.tasks.registry import get_task

CONFIG = {
    "task": "image_classification",
    "model": "builtin:resnet-cifar100",
    "dataset": "uoft-cs/cifar100",
    "method": "scratch",
    "validation_fraction": 0.02,
}
TRAINING = {
    "num_train_epochs": 30,
    "per_device_train_batch_size": 128,
    "per_device_eval_batch_size": 256,
    "learning_rate": 0.2,
    "optim": "sgd",
    "optim_args": "momentum=0.9,nesterov=true",
    "weight_decay": 5e-4,
    "warmup_steps": 0.15,
    "seed": 0,
    "output_dir": "runs/source",
}
GROWTH = ((0.0, 32), (0.3, 48), (0.65, 64))
"""(fraction of the training, size of the images from there on); the last size is that of the model's processor."""


class InMemory(torch.utils.data.Dataset):
    """The images of a split as one tensor of bytes (n, 3, height, width), decoded once."""

    def __init__(self, split: Any) -> None:
        images = [torch.frombuffer(bytearray(upright_rgb(row).tobytes()), dtype=torch.uint8) for row in split["image"]]
        width, height = split[0]["image"].size
        self.pixels = torch.stack(images).view(-1, height, width, 3).permute(0, 3, 1, 2).contiguous()
        self.labels = split["labels"][:]  # a list: a column would be read from the file for each row

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"pixels": self.pixels[i], "labels": self.labels[i]}


class AugmentedBatches:
    """Collator: random shifts by up to 4 pixels, flips, and images that grow during training."""

    def __init__(self, processor: Any, steps: int) -> None:
        self.mean = torch.tensor(processor.image_mean).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(processor.image_std).view(1, 3, 1, 1) * 255
        self.steps, self.done = steps, 0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        labels = torch.tensor([row["labels"] for row in rows])
        if "pixel_values" in rows[0]:
            return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": labels}
        pixels = torch.stack([row["pixels"] for row in rows]).float().sub_(self.mean).div_(self.std)
        size = [pixel for begin, pixel in GROWTH if self.done / self.steps >= begin][-1]
        self.done += 1
        grown = interpolate(shifted_and_flipped(pixels), (size, size), mode="bilinear")
        # Convolutions on a CPU are a third faster with channels last, and all layers preserve that format.
        return {"pixel_values": grown.contiguous(memory_format=torch.channels_last), "labels": labels}


def shifted_and_flipped(pixels: torch.Tensor) -> torch.Tensor:
    """Shift each image of a batch (n, 3, height, width) at random, padded by reflection; flip half of them."""
    count, _, height, width = pixels.shape
    top, left = torch.randint(0, 9, (2, count, 1))
    rows, columns = torch.arange(height) + top, torch.arange(width) + left
    columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    image, channel = torch.arange(count)[:, None, None, None], torch.arange(3)[None, :, None, None]
    return pad(pixels, (4, 4, 4, 4), mode="reflect")[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def main(argv: list[str] | None = None) -> None:
    """Like the other recipes, with the two steps of the task from data to batches replaced."""
    config, args = parse(CONFIG, TRAINING, argv, __doc__)
    splits = load_splits(config, args.seed)
    model, processor, loaded = load_model(config, splits.labels, splits.problem_type, args.seed)
    plan = make_plan(config, args, loaded.groups, len(splits.train))
    steps = int(plan.stages[0].epochs * len(splits.train) / args.train_batch_size)
    plain: Task = get_task(config.task)
    task = replace(
        plain,
        encode=lambda split, *rest: InMemory(split) if rest[-1] else plain.encode(split, *rest),
        collator=lambda processor: AugmentedBatches(processor, steps),
    )
    trained = train(model, processor, splits, plan, config, args, loaded, task)
    save(trained, score(trained))


if __name__ == "__main__":
    sys.exit(run(main))
