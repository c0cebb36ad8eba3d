"""One run of quality.py by another tool, in the Python that has it: train on files, predict the test examples.

    python quality_peers.py '{"tool": "trainer", "task": ..., "data": FOLDER, ...}'

The request is JSON, see `quality.request_of`; the answer is JSON on the last line: `predicted`, a label, list of labels
or list of tags by name for each test example, `training_seconds` and `versions`. Nothing of hf_ft is imported. Each
tool has the settings of its own guide (see `TOOLS`); what they leave open is said where it is chosen.
"""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

Request = Mapping[str, Any]
Rows = list[dict[str, Any]]
Answer = tuple[list[Any], float]
"""What is predicted for each test example, and the seconds of training."""


def rows_of(request: Request, split: str) -> Rows:
    """The examples of a split: `file` and `label` of images, otherwise the columns of the written file."""
    folder = Path(request["data"])
    if request["task"] != "image_classification":
        return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    with (folder / "splits.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def batch_of(usual: int, examples: int) -> int:
    """The usual batch size, halved until an epoch has four whole batches: training loaders drop the rest."""
    size = usual
    while size > 2 and size * 4 > examples:
        size //= 2
    return size


def timed(train: Callable[[], Any]) -> float:
    """The seconds of a call."""
    started = time.perf_counter()
    train()
    return time.perf_counter() - started


# --- Trainer ----------------------------------------------------------------------------------------------------------


def with_trainer(request: Request) -> Answer:
    """`Trainer` with the settings of the guides of transformers, three epochs each; the best epoch is loaded.

    Images: https://huggingface.co/docs/transformers/tasks/image_classification; texts and tags: `tasks/`
    `sequence_classification` and `tasks/token_classification`.
    """
    import transformers
    from transformers import Trainer, TrainingArguments

    images, labels = request["task"] == "image_classification", request["labels"]
    numbers = {name: number for number, name in enumerate(labels)}
    transformers.set_seed(request["seed"])
    auto = {
        "image_classification": transformers.AutoModelForImageClassification,
        "text_classification": transformers.AutoModelForSequenceClassification,
        "token_classification": transformers.AutoModelForTokenClassification,
    }[request["task"]]
    several = {"problem_type": request["kind"]} if request["kind"] == "multi_label_classification" else {}
    model = auto.from_pretrained(
        request["model"],
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id=numbers,
        ignore_mismatched_sizes=True,
        **several,
    )
    own: dict[str, Any] = {"weight_decay": 0.01}
    if images:
        own = {"gradient_accumulation_steps": 4, "warmup_steps": 0.1, "remove_unused_columns": False}
        own |= {"metric_for_best_model": "accuracy"}
    args = TrainingArguments(
        output_dir=request["scratch"],
        learning_rate=request["settings"]["learning_rate"],
        num_train_epochs=3,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=16,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        seed=request["seed"],
        report_to="none",
        disable_tqdm=True,
        **own,
    )
    encode, collator, processor = _of_images(request) if images else _of_texts(request)
    splits = {split: encode(rows_of(request, split), split == "train") for split in ("train", "validation", "test")}
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=collator,
        processing_class=processor,
        compute_metrics=_accuracy if images else None,
    )
    seconds = timed(trainer.train)
    output = trainer.predict(splits["test"])
    return _named(request, output.predictions, output.label_ids), seconds


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def _of_images(request: Request) -> tuple[Any, Any, Any]:
    """How images are read and batched: with the transforms of timm where the model is one of timm's, as in the example
    script `run_image_classification.py`, otherwise with those of the guide.
    """
    from datasets import Dataset, Image
    from torchvision import transforms
    from transformers import AutoImageProcessor, DefaultDataCollator

    processor = AutoImageProcessor.from_pretrained(request["model"])
    if hasattr(processor, "train_transforms"):
        training, evaluating = processor.train_transforms, processor.val_transforms
    else:
        size = processor.size.get("shortest_edge") or (processor.size["height"], processor.size["width"])
        last = [transforms.ToTensor(), transforms.Normalize(processor.image_mean, processor.image_std)]
        training = transforms.Compose([transforms.RandomResizedCrop(size), *last])
        evaluating = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), *last])

    def encode(rows: Rows, train: bool) -> Any:
        files = [str(Path(request["data"], row["file"])) for row in rows]
        labels = [request["labels"].index(row["label"]) for row in rows]
        chosen = training if train else evaluating

        def transform(batch: dict[str, list[Any]]) -> dict[str, Any]:
            return {"pixel_values": [chosen(one.convert("RGB")) for one in batch["image"]], "labels": batch["labels"]}

        data = Dataset.from_dict({"image": files, "labels": labels})
        return data.cast_column("image", Image()).with_transform(transform)

    return encode, DefaultDataCollator(), processor


def _of_texts(request: Request) -> tuple[Any, Any, Any]:
    """How texts are tokenised and batched; a word's tag stands at its first token."""
    from datasets import Dataset
    from transformers import AutoTokenizer, DataCollatorForTokenClassification, DataCollatorWithPadding

    tokenizer = AutoTokenizer.from_pretrained(request["model"])
    numbers = {name: number for number, name in enumerate(request["labels"])}

    def texts(batch: dict[str, list[Any]]) -> dict[str, Any]:
        found = dict(tokenizer(batch["text"], truncation=True))
        if "label" in batch:
            return found | {"labels": [numbers[name] for name in batch["label"]]}
        return found | {"labels": [[float(name in names) for name in request["labels"]] for names in batch["labels"]]}

    def words(batch: dict[str, list[Any]]) -> dict[str, Any]:
        found = tokenizer(batch["tokens"], truncation=True, is_split_into_words=True)
        labels = []
        for place, tags in enumerate(batch["ner_tags"]):
            own, before = [], None
            for word in found.word_ids(place):
                own.append(-100 if word is None or word == before else numbers[tags[word]])
                before = word
            labels.append(own)
        return dict(found) | {"labels": labels}

    tags = request["task"] == "token_classification"

    def encode(rows: Rows, _: bool) -> Any:
        data = Dataset.from_list(rows)
        return data.map(words if tags else texts, batched=True, remove_columns=data.column_names)

    collator = DataCollatorForTokenClassification if tags else DataCollatorWithPadding
    return encode, collator(tokenizer), tokenizer


def _named(request: Request, logits: Any, references: Any) -> list[Any]:
    """Predictions by name; several labels from a probability of one half, words beyond the last token as `O`."""
    labels = request["labels"]
    if request["kind"] == "multi_label_classification":
        return [[name for name, value in zip(labels, row, strict=True) if value > 0] for row in logits]
    if request["kind"] != "token_classification":
        return [labels[number] for number in logits.argmax(-1)]
    found = []
    for row, codes, example in zip(logits.argmax(-1), references, rows_of(request, "test"), strict=True):
        tags = [labels[tag] for tag in row[codes != -100]]
        found.append(tags + ["O"] * (len(example["tokens"]) - len(tags)))
    return found


# --- Image classifiers ------------------------------------------------------------------------------------------------


def with_fastai(request: Request) -> Answer:
    """fastai as in https://docs.fast.ai/tutorial.vision: resized to 460, augmented at the size of the model."""
    import pandas
    from fastai.vision.all import ImageDataLoaders, Resize, aug_transforms, error_rate, set_seed, vision_learner

    set_seed(request["seed"])
    splits = {split: rows_of(request, split) for split in ("train", "validation")}
    rows = [row | {"valid": split == "validation"} for split, found in splits.items() for row in found]
    train = sum(not row["valid"] for row in rows)
    loaders = ImageDataLoaders.from_df(
        pandas.DataFrame(rows),
        path=request["data"],
        fn_col="file",
        label_col="label",
        valid_col="valid",
        item_tfms=Resize(460),
        batch_tfms=aug_transforms(size=request["image_size"]),
        bs=batch_of(64, train),
    )
    weights = {"pretrained_cfg_overlay": {"file": request["weights"]}}
    learner = vision_learner(loaders, request["architecture"], metrics=error_rate, path=request["scratch"], **weights)
    with learner.no_bar():
        seconds = timed(lambda: learner.fine_tune(4))
        test = pandas.DataFrame(rows_of(request, "test"))
        shares, _ = learner.get_preds(dl=loaders.test_dl(test))
    return [str(loaders.vocab[number]) for number in shares.argmax(1).tolist()], seconds


def with_timm(request: Request) -> Answer:
    """timm's `train.py`, run as a script, with the options that its author publishes for fine-tuned models.

    Those are AdamW, weight decay 0.01, clipped gradients, steps of the schedule on updates, and decay of the rate by
    layer, as on the cards of `timm/*_ft_*`. They leave open for a small network: rate 5e-4, 10 epochs, batches of 32.
    The training seconds are those of the whole script.
    """
    import timm
    import torch
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    scratch, labels = Path(request["scratch"]), request["labels"]
    (scratch / "classes.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    train = len(rows_of(request, "train"))
    options = {
        "data-dir": request["data"],
        "train-split": "train",
        "val-split": "validation",
        "class-map": scratch / "classes.txt",
        "model": request["architecture"],
        "pretrained-path": request["weights"],
        "num-classes": len(labels),
        "opt": "adamw",
        "opt-eps": 1e-6,
        "weight-decay": 0.01,
        "lr": 5e-4,
        "warmup-lr": 0,
        "warmup-epochs": 1,
        "clip-grad": 1.0,
        "layer-decay": 0.8,
        "epochs": 10,
        "batch-size": batch_of(32, train),
        "workers": request["threads"],
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "seed": request["seed"],
        "output": scratch,
        "experiment": "run",
    }
    command = [
        sys.executable,
        str(Path(request["settings"]["folder"], "train.py")),
        "--pretrained",
        "--sched-on-updates",
    ]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    seconds = timed(lambda: subprocess.run(command, check=True, stdout=sys.stderr, cwd=scratch))
    best = scratch / "run" / "model_best.pth.tar"
    # The script stores its own options beside the weights, which only a full unpickling reads.
    weights = torch.load(best, map_location="cpu", weights_only=False)["state_dict"]
    model = timm.create_model(request["architecture"], num_classes=len(labels))
    model.load_state_dict(weights)
    model.eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    files = [Path(request["data"], row["file"]) for row in rows_of(request, "test")]
    found: list[str] = []
    with torch.inference_mode():
        for start in range(0, len(files), 32):
            batch = [transform(Image.open(file).convert("RGB")) for file in files[start : start + 32]]
            found += [labels[number] for number in model(torch.stack(batch)).argmax(1).tolist()]
    return found, seconds


# --- AutoGluon, SetFit ------------------------------------------------------------------------------------------------


def with_autogluon(request: Request) -> Answer:
    """AutoGluon-Multimodal with its defaults, but for the backbone."""
    import pandas
    from autogluon.multimodal import MultiModalPredictor

    images = request["task"] == "image_classification"

    def frame(split: str) -> Any:
        rows = rows_of(request, split)
        if images:
            rows = [{"image": str(Path(request["data"], row["file"])), "label": row["label"]} for row in rows]
        return pandas.DataFrame(rows)

    settings = {"model.names": ["hf_text"], "model.hf_text.checkpoint_name": request["model"]}
    if images:
        settings = {"model.names": ["timm_image"], "model.timm_image.checkpoint_name": _timm_folder(request)}
    kind = "binary" if len(request["labels"]) == 2 else "multiclass"
    path = str(Path(request["scratch"], "predictor"))
    predictor = MultiModalPredictor(label="label", problem_type=kind, path=path, enable_progress_bar=False)
    train, validation = frame("train"), frame("validation")
    seconds = timed(
        lambda: predictor.fit(train, tuning_data=validation, hyperparameters=settings, seed=request["seed"])
    )
    test = frame("test").drop(columns="label")
    return [str(label) for label in predictor.predict(test)], seconds


def _timm_folder(request: Request) -> str:
    """A folder with the weights as AutoGluon saves and loads those of timm: without a head."""
    import timm
    import torch
    from safetensors.torch import load_file

    body = timm.create_model(request["architecture"], num_classes=0)
    wanted = body.state_dict()
    body.load_state_dict({name: tensor for name, tensor in load_file(request["weights"]).items() if name in wanted})
    folder = Path(request["scratch"], "backbone")
    folder.mkdir()
    torch.save(body.state_dict(), folder / "pytorch_model.bin")
    config = {"architecture": request["architecture"], "num_features": body.num_features}
    cfg = {name: body.default_cfg[name] for name in ("input_size", "mean", "std", "crop_pct", "interpolation")}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": cfg}), encoding="utf-8")
    return str(folder)


def with_setfit(request: Request) -> Answer:
    """SetFit with its defaults; validation is not used."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    labels = request["labels"]
    rows = [{"text": row["text"], "label": labels.index(row["label"])} for row in rows_of(request, "train")]
    model = SetFitModel.from_pretrained(request["model"])
    args = TrainingArguments(request["scratch"], seed=request["seed"], save_strategy="no", report_to="none")
    trainer = Trainer(model=model, args=args, train_dataset=Dataset.from_list(rows))
    seconds = timed(trainer.train)
    found = model.predict([row["text"] for row in rows_of(request, "test")])
    return [labels[int(number)] for number in found], seconds


TOOLS: Mapping[str, tuple[Callable[[Request], Answer], str]] = {
    "trainer": (with_trainer, "transformers"),
    "fastai": (with_fastai, "fastai"),
    "timm": (with_timm, "timm"),
    "autogluon": (with_autogluon, "autogluon.multimodal"),
    "setfit": (with_setfit, "setfit"),
}
"""Name of a tool in a request -> how it runs, and its package."""


def main() -> None:
    """Answer the request on the command line."""
    request = json.loads(sys.argv[1])
    sys.path.pop(0)  # this folder, whose modules have names that a library may have as well
    import numpy
    import torch

    torch.set_num_threads(request["threads"])
    random.seed(request["seed"])
    numpy.random.seed(request["seed"])
    torch.manual_seed(request["seed"])
    run, package = TOOLS[request["tool"]]
    predicted, seconds = run(request)
    versions = {name: version(name) for name in (package, "torch")}
    print("\n" + json.dumps({"predicted": predicted, "training_seconds": seconds, "versions": versions}), flush=True)


if __name__ == "__main__":
    main()
