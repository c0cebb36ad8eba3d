"""The work of a variant in its own process: the same job by a plain `Trainer`, by `hf_ft`, or as a bare forward pass.

Every variant answers one JSON object on its last line. `seconds` run from encoded data in memory to the trained
model: `Trainer(...)` and `trainer.train()`, and with hf_ft its stages with the building of the feature cache.
Everything else is reported `apart`. The plain variant uses nothing of hf_ft, so that time and memory are those of the
script of a tutorial; what it needs to know (the same examples, the same frozen parameters, the same rate) `prepare`
has written down for it.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hf_ft.errors import UserError

Request = Mapping[str, Any]

LONGEST = 512
"""Longest text in tokens, as hf_ft has it by default."""


class Clock:
    """Seconds of each part of a run; prints for the parent which part it is in."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part under its name."""
        print(f"phase: {name}", flush=True)
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started

    def answer(self, seconds: float, accuracy: float | None, gpu_peak: int, **more: Any) -> dict[str, Any]:
        """The answer of a variant whose training took `seconds`; the rest of its part `train` is reported apart."""
        apart = {name: took for name, took in self.seconds.items() if name != "train"}
        apart["besides"] = self.seconds["train"] - seconds - self.seconds.get("validation", 0.0)
        return {"seconds": seconds, "accuracy": accuracy, "gpu_peak": gpu_peak, "apart": apart, **more}


def answer(request: Request) -> None:
    """Do what a request asks for and print the result as the last line."""
    kinds = {"prepare": prepare, "plain": plain, "hf_ft": with_hf_ft, "forward": forward, "random_vit": random_vit}
    try:
        found = kinds[request["kind"]](request)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print("\n" + json.dumps(found), flush=True)


def training_settings(request: Request) -> dict[str, Any]:
    """The `TrainingArguments` of both sides: those of hf_ft by default, without evaluations and checkpoints."""
    cuda = request["device"] == "cuda"
    return {
        "output_dir": str(Path(request["scratch"], "out")),
        "num_train_epochs": request["num_train_epochs"],
        "per_device_train_batch_size": request["per_device_train_batch_size"],
        "per_device_eval_batch_size": 64,
        "learning_rate": request["plan"]["learning_rate"],
        "weight_decay": 0.01,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "seed": request["seed"],
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": cuda,
        **({"bf16": True} if cuda else {"use_cpu": True}),
    }


def gpu_peak() -> int:
    """Most bytes of GPU memory that were allocated at once; 0 without a GPU."""
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0


# --- hf_ft ----------------------------------------------------------------------------------------------------------


def hf_ft_settings(request: Request, method: str) -> dict[str, Any]:
    """The settings of hf_ft with which it trains as a plain `Trainer` does.

    One rate for head and body, no augmentation, BatchNorm that follows the data, and the pooling of the architecture.
    """
    settings = {"task": request["task"], "model": request["model"], "dataset": request["dataset"], "method": method}
    for name in ("max_train_examples", "max_eval_examples"):
        settings[name] = request[name]
    images = request["task"] == "image_classification"
    same = {"augment": "none", "batch_norm": "train"} if images else {"pooling": "model"}
    return settings | {"head_lr_multiplier": 1.0} | same


def prepare(request: Request) -> dict[str, Any]:
    """Write the data of a seed for the plain variants, and the names of what trains by number of frozen blocks."""
    import hf_ft
    from hf_ft.models.model_config import resolve_model

    training = {"output_dir": str(Path(request["scratch"], "out")), "seed": request["seed"]}
    training["per_device_train_batch_size"] = request["per_device_train_batch_size"]
    config, args = hf_ft.parse(hf_ft_settings(request, "head"), training, [])
    splits = hf_ft.load_splits(config, args.seed)
    if splits.problem_type != "single_label_classification":
        raise UserError(f"The comparisons are of one label an example, and the data are {splits.problem_type}.")
    splits.train.save_to_disk(str(Path(request["data"], "train")))
    scored = splits.validation if splits.test is None else splits.test
    scored.save_to_disk(str(Path(request["data"], "scored")))
    model, _, loaded = hf_ft.load_model(config, splits.labels, splits.problem_type, args.seed)
    blocks = len(loaded.groups.of_role("block"))
    methods = {"none": "full", "head": "head"} | {str(k): f"last_n:{blocks - k}" for k in range(blocks)}
    plans = {}
    for frozen, method in methods.items():
        config, args = hf_ft.parse(hf_ft_settings(request, method), training, [])
        stage = hf_ft.make_plan(config, args, loaded.groups, len(splits.train)).stages[0]
        plans[frozen] = {"method": method, "trainable": stage.trained_parameters, "learning_rate": stage.rate}
    if adapted := request.get("adapters"):
        plans[adapted] = adapter_plan(request, adapted, training, model, loaded, len(splits.train))
    return {
        "folder": resolve_model(config.model),
        "labels": len(splits.labels),
        "blocks": blocks,
        "head": linear_head(model, plans["head"]["trainable"]),
        "plans": plans,
        "scored_on": "validation" if splits.test is None else "test",
    }


def adapter_plan(
    request: Request, method: str, training: dict[str, Any], model: Any, loaded: Any, examples: int
) -> dict[str, Any]:
    """What the plain side needs for a method with adapters: PEFT's own config as a file, and the rate."""
    import hf_ft
    from hf_ft.methods import configuration
    from hf_ft.models import adapters

    config, args = hf_ft.parse(hf_ft_settings(request, method), training, [])
    stage = hf_ft.make_plan(config, args, loaded.groups, examples).stages[0]
    targets = adapters.find_targets(model, stage, stage.peft, stage.peft_options)
    folder = Path(request["data"], "adapter")
    configuration(stage.peft, stage.peft_options, targets, adapters.trained_modules(stage), 0).save_pretrained(folder)
    return {"method": method, "adapter": str(folder), "learning_rate": stage.rate}


def linear_head(model: Any, trainable: list[str]) -> str | None:
    """The name of the head where it is a single linear layer, so that logistic regression can stand in for it."""
    from torch import nn

    modules = {name.rpartition(".")[0] for name in trainable}
    name = modules.pop()
    return name if not modules and isinstance(model.get_submodule(name), nn.Linear) else None


def with_hf_ft(request: Request) -> dict[str, Any]:
    """Train by the public functions of hf_ft, as its recipes do."""
    clock = Clock()
    with clock.part("imports"):
        import hf_ft

        _ = hf_ft.load_splits, hf_ft.train, hf_ft.score, hf_ft.save  # imported when first used
    with clock.part("loading"):
        settings = hf_ft_settings(request, request["plan"]["method"]) | request["settings"]
        settings.setdefault("cache_dir", str(Path(request["scratch"], "cache")))
        config, args = hf_ft.parse(settings, training_settings(request), [])
        splits = hf_ft.load_splits(config, args.seed)
        model, processor, loaded = hf_ft.load_model(config, splits.labels, splits.problem_type, args.seed)
        plan = hf_ft.make_plan(config, args, loaded.groups, len(splits.train))
    with clock.part("train"):
        trained = hf_ft.train(model, processor, splits, plan, config, args, loaded)
    peak = max([gpu_peak(), *(stage.peak_memory for stage in trained.stages if request["device"] == "cuda")])
    with clock.part("evaluation"):
        results = hf_ft.score(trained)
    clock.seconds["validation"] = sum(map(validation_seconds, trained.stages))
    with clock.part("saving"):
        hf_ft.save(trained, results)
    caches = [stage.cache for stage in trained.stages if stage.cache]
    seconds = sum(training_seconds(stage) for stage in trained.stages)
    scores = results.metrics["validation" if splits.test is None else "test"]
    computed, building = (sum(cache[what] for cache in caches) for what in ("computed", "seconds"))
    return clock.answer(seconds, scores["accuracy"].value, peak, computed=computed, building=building)


def training_seconds(stage: Any) -> float:
    """The seconds of a stage, the building of its cache included, without what evaluating took.

    Features of validation are of evaluation too, for which a plain `Trainer` makes its pass over validation. They are
    reported apart, since the closed-form solver chooses its penalty by them.
    """
    evaluations = sum(entry.get("eval_runtime", 0.0) for entry in stage.history)
    return float(stage.seconds - evaluations - validation_seconds(stage))


def validation_seconds(stage: Any) -> float:
    """The seconds that features of validation took."""
    return float(stage.cache["validation_seconds"]) if stage.cache else 0.0


# --- Plain ----------------------------------------------------------------------------------------------------------


def import_plain() -> None:
    """Import modules that are imported on first use, so that their seconds count as imports."""
    for module in ("datasets", "torch", "transformers.models.auto.modeling_auto", "transformers.data.data_collator"):
        importlib.import_module(module)


def load_plain(request: Request) -> tuple[Any, Any]:
    """A pretrained model with a fresh head, and its tokenizer or image processor, as a tutorial loads them."""
    import torch
    from transformers import (
        AutoImageProcessor,
        AutoModelForImageClassification,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        set_seed,
    )

    images = request["task"] == "image_classification"
    set_seed(request["seed"])
    auto = AutoModelForImageClassification if images else AutoModelForSequenceClassification
    model = auto.from_pretrained(
        request["folder"], num_labels=request["labels"], ignore_mismatched_sizes=True, dtype=torch.float32
    )
    return model, (AutoImageProcessor if images else AutoTokenizer).from_pretrained(request["folder"])


def encode_plain(request: Request, processor: Any, part: str, padding: str | None = None) -> Any:
    """Tokenised texts, or images that a transform decodes and resizes whenever they are read."""
    from datasets import load_from_disk

    rows = load_from_disk(str(Path(request["data"], part)))
    if request["task"] == "image_classification":

        def transform(batch: dict[str, list[Any]]) -> dict[str, Any]:
            pixels = processor([image.convert("RGB") for image in batch["image"]], return_tensors="pt")["pixel_values"]
            return {"pixel_values": list(pixels), "labels": batch["labels"]}

        return rows.with_transform(transform)

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts = [batch[name] for name in ("text", "text_pair") if name in batch]
        if padding:
            return dict(processor(*texts, truncation=True, padding="max_length", max_length=int(padding)))
        return dict(processor(*texts, truncation=True, max_length=min(LONGEST, processor.model_max_length)))

    return rows.map(tokenize, batched=True, remove_columns=[name for name in rows.column_names if name != "labels"])


def plain_collator(request: Request, processor: Any) -> Any:
    """How a tutorial makes batches."""
    from transformers import DataCollatorWithPadding, default_data_collator

    return default_data_collator if request["task"] == "image_classification" else DataCollatorWithPadding(processor)


def prepared_plain(model: Any, plan: Mapping[str, Any]) -> Any:
    """The model with PEFT's adapters, or with its frozen parameters frozen."""
    if "adapter" in plan:
        from peft import PeftConfig, get_peft_model

        return get_peft_model(model, PeftConfig.from_pretrained(plan["adapter"]))
    trainable, parameters = set(plan["trainable"]), dict(model.named_parameters())
    if trainable - parameters.keys():
        raise RuntimeError(f"The plain model lacks parameters: {sorted(trainable - parameters.keys())[:3]}")
    for name, parameter in parameters.items():
        parameter.requires_grad = name in trainable
    return model


def plain(request: Request) -> dict[str, Any]:
    """Train as a tutorial does: `Trainer`, and `requires_grad = False` on frozen layers.

    The settings are `arguments`, more of `TrainingArguments`, and `padding`, a length that all texts are padded to.
    """
    clock = Clock()
    with clock.part("imports"):
        import_plain()
        from transformers import Trainer, TrainingArguments
    with clock.part("loading"):
        model, processor = load_plain(request)
        model = prepared_plain(model, request["plan"])
    settings = training_settings(request) | request["settings"].get("arguments", {})
    args = TrainingArguments(**settings, remove_unused_columns=request["task"] != "image_classification")
    padding = request["settings"].get("padding")
    with clock.part("train"):
        rows = encode_plain(request, processor, "train", padding)
        started = time.perf_counter()
        trainer = Trainer(
            model=model,
            args=args,
            train_dataset=rows,
            data_collator=plain_collator(request, processor),
            processing_class=processor,
        )
        trainer.train()
        seconds = time.perf_counter() - started
    peak = gpu_peak()
    with clock.part("evaluation"):
        output = trainer.predict(encode_plain(request, processor, "scored"))
        accuracy = float((output.predictions.argmax(-1) == output.label_ids).mean())
    with clock.part("saving"):
        trainer.save_model()
    return clock.answer(seconds, accuracy, peak)


# --- A bare forward pass --------------------------------------------------------------------------------------------


def forward(request: Request) -> dict[str, Any]:
    """One pass over the training examples in inference mode, texts sorted by length: what no cache can do without.

    With the setting `layout`, `channels_last`, model and images are in that memory format. With `fit`, `raw` or
    `standardised`, logistic regression (scikit-learn, C = 1) on what enters the head follows, and counts as training.
    """
    clock = Clock()
    with clock.part("imports"):
        import_plain()
        import torch
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    with clock.part("loading"):
        model, processor = load_plain(request)
        model = model.to(request["device"]).eval()
        if request["settings"].get("layout") == "channels_last":
            model = model.to(memory_format=torch.channels_last)
    fit = request["settings"].get("fit")
    with clock.part("train"):
        encoded = encode_plain(request, processor, "train")
        started = time.perf_counter()
        features, labels = features_of(request, model, processor, encoded)
        if fit:
            steps = [StandardScaler()] if fit == "standardised" else []
            classifier = make_pipeline(*steps, LogisticRegression(max_iter=5000)).fit(features, labels)
        seconds = time.perf_counter() - started
    peak = gpu_peak()
    with clock.part("evaluation"):
        scored = encode_plain(request, processor, "scored") if fit else None
        accuracy = float(classifier.score(*features_of(request, model, processor, scored))) if fit else None
    return clock.answer(seconds, accuracy, peak)


def features_of(request: Request, model: Any, processor: Any, encoded: Any) -> tuple[Any, Any]:
    """What enters the head for each example (n, width), and the labels (n,); logits where the head is not linear."""
    import torch

    size, collate, found, labels = request["per_device_train_batch_size"], plain_collator(request, processor), [], []
    order = list(range(len(encoded)))
    if "input_ids" in encoded.column_names:
        lengths = [len(tokens) for tokens in encoded["input_ids"]]
        order.sort(key=lambda row: -lengths[row])
    entering: list[Any] = []
    if request["head"]:
        model.get_submodule(request["head"]).register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    precision = torch.autocast("cuda", torch.bfloat16) if request["device"] == "cuda" else nullcontext()
    with torch.inference_mode(), precision:
        for start in range(0, len(order), size):
            batch = collate([encoded[row] for row in order[start : start + size]])
            labels.append(batch.pop("labels"))
            logits = model(**{name: value.to(request["device"]) for name, value in batch.items()}).logits
            found.append((entering.pop() if request["head"] else logits).float().cpu())
    return torch.cat(found).numpy(), torch.cat(labels).numpy()


# --- A model --------------------------------------------------------------------------------------------------------


def random_vit(request: Request) -> dict[str, Any]:
    """Save a vision transformer of the size of ViT-S with random weights and no head: for speed, not for accuracy."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    size = request["image_size"]
    config = ViTConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, image_size=size
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(request["folder"])
    ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(request["folder"])
    return {}
