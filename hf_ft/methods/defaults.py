"""Defaults of the methods: learning rates, epochs and the like, by method and by modality."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """What a PEFT method starts from: learning rates of the adapters, options other than PEFT's own, what it adapts.

    `norms`: it adapts normalisation layers rather than linear and convolution layers.
    """

    text: float = 2e-3
    image: float = 4e-3
    options: Mapping[str, Any] = field(default_factory=dict)
    norms: bool = False


PRESETS: dict[str, Preset] = {
    "lora": Preset(5e-4, 1e-3, {"r": 8, "lora_alpha": 16}),
    "adalora": Preset(5e-3, 1e-2),
    "adamss": Preset(5e-3, 1e-2),
    "beft": Preset(5e-3, 1e-2),
    "boft": Preset(3e-3, 5e-3),
    "c3a": Preset(5e-2, 1e-1, {"block_size": 64}),
    "deft": Preset(1e-3, 2e-3),
    "delora": Preset(3e-3, 5e-3),
    "fourierft": Preset(5e-2, 1e-1),
    "frod": Preset(5e-3, 1e-2),
    "glora": Preset(1e-3, 2e-3),
    "gralora": Preset(1e-3, 2e-3),
    "hira": Preset(5e-3, 1e-2),
    "hra": Preset(3e-3, 5e-3),
    "ia3": Preset(1e-2, 2e-2, {"feedforward_modules": []}),
    "ln_tuning": Preset(norms=True),
    "lokr": Preset(5e-3, 1e-2),
    "miss": Preset(5e-4, 1e-3),
    "osf": Preset(1e-4, 3e-4),
    "peanut": Preset(1e-3, 2e-3),
    "psoft": Preset(1e-3, 2e-3),
    "pvera": Preset(1e-2, 2e-2),
    "randlora": Preset(1e-3, 2e-3),
    "road": Preset(5e-3, 1e-2),
    "shira": Preset(1e-3, 2e-3),
    "supertuning": Preset(1e-3, 2e-3),
    "tinylora": Preset(2e-2, 4e-2),
    "unilora": Preset(5e-3, 1e-2),
    "vblora": Preset(1e-2, 2e-2, {"vector_length": 64}),
    "vera": Preset(5e-2, 5e-2),
    "waveft": Preset(2e-2, 4e-2),
}
"""Method -> where it starts; a method that is not here starts from `Preset()`."""

MEASURED = {
    "text": frozenset({"adalora", "fourierft", "ia3", "loha", "lokr", "lora", "oft", "vera"}),
    "image": frozenset({"lora"}),
}
"""Modality -> PEFT methods whose rate was tried; the others are estimates from the scale of the parameters.

Those for texts reach a test accuracy of 0.69 to 0.77 on 500 sentences of SST-2 (MiniLM, seed 0, 90 steps of 16), where
0.5 is chance; that of LoRA for images was tried on photographs of 32 pixels.
"""

HEAD_RATES = {"text": 5e-3, "image": 1e-2}
"""Learning rate of the head next to adapters, whose own rates differ by a factor of a thousand."""


def preset(name: str) -> Preset:
    """The preset of a method of PEFT."""
    return PRESETS.get(name, Preset())


REFERENCE_SIZE = 86e6
"""Parameters in the blocks of BERT-base and of ViT-B, for which the rates of transformers are written down."""
LEAST_FACTOR, MOST_FACTOR = 0.5, 4.0
"""How far the size of a transformer changes its rate: those in use are 1e-5 for 300 M parameters, 2e-4 for 10 M."""


def rate_for_size(rate: float, parameters: int) -> float:
    """The rate of a transformer with so many parameters in its blocks, from that of `REFERENCE_SIZE`.

    Smaller networks take higher rates. Between the rates in use for BERT-base and those measured on MiniLM (the
    benchmarks' README), the inverse square root of the size fits.
    """
    return rate * min(MOST_FACTOR, max(LEAST_FACTOR, math.sqrt(REFERENCE_SIZE / max(parameters, 1))))


PLAN_ONLY = frozenset({"min_steps", "transformer_rate"})
"""Defaults that are no settings. `min_steps` raises the number of epochs on small data. `transformer_rate` is the rate
of networks without BatchNorm, scaled by `rate_for_size`; `learning_rate` is then that of networks with BatchNorm."""

# Rates are those of the body; the head's is `head_lr_multiplier` times as high (ten, as in
# https://d2l.ai/chapter_computer-vision/fine-tuning.html).
_TUNE = {"head_lr_multiplier": 10.0, "min_steps": 100, "transformer_rate": 5e-5}
# A linear probe is a convex problem and its loss falls smoothly, while its accuracy on a small validation split is
# mostly noise from epoch to epoch: so its best epoch is the one of least loss.
_PROBE = {"metric_for_best_model": "loss", "min_steps": 300}
# A few small parameters need a high rate; the head's is that of the adapters' head.
_PART = {"head_lr_multiplier": 2.5, "min_steps": 300}
_ADAPT = {"head_lr_multiplier": 10.0, "min_steps": 300}
_PAIRS = {"min_steps": 28, "transformer_rate": 7.5e-5}
DEFAULTS: dict[str, Mapping[str, Mapping[str, Any]]] = {
    "scratch": {
        "image": {"learning_rate": 1e-3, "num_train_epochs": 10, "augment": "basic", "min_steps": 600},
        "text": {"learning_rate": 1e-4, "num_train_epochs": 10, "min_steps": 600},
    },
    # Measured on MiniLM's pooled sentences, whose features vary by 0.04 only: logistic regression scores 0.754
    # on SST-2, this rate 0.752, a third of it 0.744. A head of several layers takes DEEP_HEAD_RATE.
    "head": {
        "image": {"learning_rate": 1e-2, "num_train_epochs": 10, "augment": "none"} | _PROBE,
        "text": {"learning_rate": 1e-1, "num_train_epochs": 5} | _PROBE,
    },
    "last_n": {
        "image": {"learning_rate": 3e-4, "num_train_epochs": 10, "augment": "basic"} | _TUNE,
        "text": {"learning_rate": 5e-5, "num_train_epochs": 3} | _TUNE,
    },
    "first_n": {
        "image": {"learning_rate": 3e-4, "num_train_epochs": 10, "augment": "basic"} | _TUNE,
        "text": {"learning_rate": 5e-5, "num_train_epochs": 3} | _TUNE,
    },
    "full": {
        "image": {"learning_rate": 3e-4, "num_train_epochs": 10, "augment": "basic"} | _TUNE,
        "text": {"learning_rate": 5e-5, "num_train_epochs": 3} | _TUNE,
    },
    "lp_ft": {
        "image": {"learning_rate": 3e-4, "num_train_epochs": 10, "augment": "basic"} | _TUNE,
        "text": {"learning_rate": 5e-5, "num_train_epochs": 4} | _TUNE,
    },
    "contrastive": {
        "image": {"learning_rate": 3e-4, "num_train_epochs": 30, "augment": "basic"} | _PAIRS,
        "text": {"learning_rate": 2e-4, "num_train_epochs": 30} | _PAIRS,
    },
    "gradual": {
        "image": {"learning_rate": 3e-4, "num_train_epochs": 12, "augment": "basic"} | _TUNE,
        "text": {"learning_rate": 1e-4, "num_train_epochs": 8} | _TUNE | {"transformer_rate": 1e-4},
    },
    "lora": {
        "image": {"learning_rate": PRESETS["lora"].image, "num_train_epochs": 10, "augment": "basic"} | _ADAPT,
        "text": {"learning_rate": PRESETS["lora"].text, "num_train_epochs": 4} | _ADAPT,
    },
    "peft": {
        "image": {"num_train_epochs": 10, "augment": "basic"} | _ADAPT,
        "text": {"num_train_epochs": 4} | _ADAPT,
    },
    "bitfit": {
        "image": {"learning_rate": 3e-3, "num_train_epochs": 10, "augment": "basic"} | _PART,
        "text": {"learning_rate": 2e-3, "num_train_epochs": 4} | _PART,
    },
    "norms": {
        "image": {"learning_rate": 3e-3, "num_train_epochs": 10, "augment": "basic"} | _PART,
        "text": {"learning_rate": 2e-3, "num_train_epochs": 4} | _PART,
    },
    "train": {
        "image": {"learning_rate": 3e-4, "num_train_epochs": 10, "augment": "basic"} | _TUNE,
        "text": {"learning_rate": 5e-5, "num_train_epochs": 4} | _TUNE,
    },
    "auto": {
        "image": {"learning_rate": 3e-4, "num_train_epochs": 10, "augment": "basic"} | _TUNE,
        "text": {"learning_rate": 5e-5, "num_train_epochs": 3} | _TUNE,
    },
}
"""Method -> modality -> settings that train well without being set, and `PLAN_ONLY`."""


DEEP_HEAD_RATE = 1e-3
"""Default rate of method `head` for a head of more than one layer, which the rates of a linear probe would wreck."""
