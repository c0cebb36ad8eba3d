"""Every mistake a user is likely to make: one line that says what was given, what there is, and what to do."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hf_ft import finetune
from hf_ft.cli.app import main
from hf_ft.cli.app import run as run_command
from hf_ft.environment.packages import missing_package, trackers
from hf_ft.errors import UserError
from hf_ft.methods.registry import METHODS
from hf_ft.storage import output_folder
from hf_ft.tasks.registry import get_task, task_names

Rows = Sequence[Sequence[str]]

TASKS, KNOWN_METHODS = ", ".join(task_names()), ", ".join(METHODS)
OF_IMAGES, OF_TEXTS = (
    "|".join(name for name in task_names() if get_task(name).modality.name == modality)
    for modality in ("image", "text")
)
"""What messages list, so that a new task or method is in them: all names, and patterns for a task of one modality."""

OPINIONS: Rows = [(f"a {'good' if i % 2 else 'bad'} film, number {i}", "pos" if i % 2 else "neg") for i in range(20)]


@dataclass(frozen=True)
class World:
    """An empty folder to make mistakes in, with real models, data and finished runs elsewhere."""

    folder: Path
    models: dict[str, str]
    data: dict[str, str]
    runs: dict[str, str]

    @property
    def out(self) -> Path:
        """The output folder, which does not exist unless a mistake needs it to."""
        return self.folder / "out"

    def train(self, kind: str = "text", **changes: Any) -> list[str]:
        """A command that would train for one step, with changes; True is a bare flag, None leaves an option out."""
        options: dict[str, Any] = {
            "task": f"{kind}_classification",
            "model": self.models[kind],
            "dataset": self.data[kind],
            "output_dir": self.out,
            "method": "head",
            "max_steps": 1,
            "per_device_train_batch_size": 8,
            "load_back_proof": "false",
        }
        words = ["train"]
        for name, value in (options | changes).items():
            words += [] if value is None else [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return words

    def table(self, columns: Sequence[str] = ("text", "label"), **splits: Rows) -> Path:
        """A folder with one CSV file per split."""
        folder = self.folder / "table"
        folder.mkdir()
        for split, rows in splits.items():
            with (folder / f"{split}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([columns, *rows])
        return folder

    def copy(self, kind: str, name: str = "model", **config: Any) -> Path:
        """A copy of a model, with changes to its config.json."""
        folder = self.folder / name
        shutil.copytree(self.models[kind], folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return folder

    def images(self, *cut: str) -> Path:
        """A copy of the images in which the named files are cut off in the middle."""
        folder = self.folder / "images"
        shutil.copytree(self.data["image"], folder)
        for name in cut:
            whole = (folder / name).read_bytes()
            (folder / name).write_bytes(whole[: len(whole) // 2])
        return folder

    def old_run(self, name: str = "out") -> Path:
        """A folder that looks like the result of an earlier run."""
        folder = self.folder / name
        output_folder.mark(folder, "run")
        for file in ("run.json", "README.md", "config.json", "model.safetensors", "figures/learning_curves.png"):
            output_folder.write(folder, file, f"old {file}")
        return folder


@pytest.fixture(scope="module")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny ViT: it has position embeddings, so its weights depend on the size of the image."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    folder = tmp_path_factory.mktemp("models") / "tiny-vit"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(**sizes, image_size=32, patch_size=16, num_labels=3)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def places(
    text_model: str,
    image_model: str,
    tiny_vit: str,
    text_data: str,
    image_data: str,
    multi_label_data: str,
    regression_data: str,
    token_data: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, str]]:
    """Models, data, and one finished run for texts and one for images."""
    models = {"text": text_model, "image": image_model, "vit": tiny_vit}
    data = {"text": text_data, "image": image_data, "topics": multi_label_data}
    decimals = tmp_path_factory.mktemp("data") / "decimals.csv"
    decimals.write_text("text,label\n" + "".join(f"text {i},{i % 3}.5\n" for i in range(9)))
    data |= {"prices": regression_data, "names": token_data, "decimals": str(decimals)}
    runs = {}
    for kind in ("text", "image"):
        runs[kind] = str(tmp_path_factory.mktemp("runs") / kind)
        settings = {"method": "head", "max_steps": 1, "load_back_proof": False, "output_dir": runs[kind]}
        finetune(task=f"{kind}_classification", model=models[kind], dataset=data[kind], **settings)
    runs["names"] = str(tmp_path_factory.mktemp("runs") / "names")
    settings = {"method": "head", "max_steps": 1, "load_back_proof": False, "output_dir": runs["names"]}
    finetune(task="token_classification", model=text_model, dataset=token_data, **settings)
    return {"models": models, "data": data, "runs": runs}


@pytest.fixture
def world(places: dict[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A fresh folder, which is the current one, so that nothing can be written elsewhere unseen."""
    monkeypatch.chdir(tmp_path)
    return World(tmp_path, places["models"], places["data"], places["runs"])


# --- The mistakes, each with a pattern for the whole message --------------------------------------------------------


def without(folder: Path, *names: str) -> Path:
    """A folder after these files were deleted from it."""
    for name in names:
        (folder / name).unlink()
    return folder


def written(world: World, text: str) -> Path:
    """A YAML file with the text."""
    path = world.folder / "given.yaml"
    path.write_text(text)
    return path


def pickled(folder: Path) -> Path:
    """A model whose weights are a pickle."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    return without(folder, "model.safetensors")


def replaced(folder: Path, name: str, content: str) -> Path:
    """A folder in which one file has another content."""
    (folder / name).write_text(content)
    return folder


def file(world: World, name: str, content: bytes) -> str:
    """A new file."""
    path = world.folder / name
    path.write_bytes(content)
    return str(path)


def folder(world: World, name: str) -> str:
    """A new folder."""
    (world.folder / name).mkdir()
    return str(world.folder / name)


def changed(world: World, run: str, name: str, content: bytes | int | None) -> Path:
    """A copy of a finished run with one file of other content, cut off after so many bytes, or without it."""
    copy = world.folder / "run"
    shutil.copytree(world.runs[run], copy)
    if content is None:
        return without(copy, name)
    (copy / name).write_bytes((copy / name).read_bytes()[:content] if isinstance(content, int) else content)
    return copy


def fewer_weights(world: World) -> Path:
    """A copy of a finished run whose weights lack one tensor."""
    from safetensors.torch import load_file, save_file

    copy = changed(world, "text", "run.json", 10**9)
    weights = load_file(copy / "model.safetensors")
    del weights["classifier.bias"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def drawn(world: World, name: str, text: str) -> Path:
    """A folder with a record from which pictures are to be drawn."""
    (world.folder / name).write_text(text, encoding="latin-1")
    return world.folder


EMPTY_COMPARISON = {
    "schema_version": 1,
    "rows": [{}],
    "metric": "accuracy",
    "data": {},
    "model": {},
    "advice": [],
    "machine": {},
}


def beside_a_model(world: World) -> Path:
    """A folder with a model called tiny-bert in it."""
    world.copy("text", "tiny-bert")
    return world.folder


def without_a_gpu(words: list[str]) -> list[str]:
    """The command, unless this machine has a GPU."""
    import torch

    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    return words


def broken(world: World) -> Path:
    """A data set that cannot be read: whatever is answered instead was asked before the data."""
    folder = world.folder / "broken"
    folder.mkdir()
    (folder / "train.parquet").write_bytes(b"no table")
    return folder


def dangling(world: World) -> Path:
    """A link to a folder that is not there."""
    (world.folder / "link").symlink_to(world.folder / "gone")
    return world.folder / "link"


def missing_tracker() -> str:
    """A tracker of `transformers` whose package is not installed here."""
    name = next((name for name in trackers() if missing_package(name)), None)
    return name or pytest.skip("all trackers are installed")


Mistake = tuple[Callable[[World], list[str]], str]

OPTIONS: dict[str, Mistake] = {
    "misspelt option": (
        lambda w: w.train(lerning_rate=1),
        r"Unknown option '--lerning_rate' in the command line\. Did you mean 'learning_rate'\? The options are "
        r"those of --help and all fields of transformers\.TrainingArguments\.",
    ),
    "former option": (
        lambda w: w.train(warmup_ratio=0.1),
        r"`--warmup_ratio` in the command line is not supported\. Use `--warmup_steps 0\.1`: .*",
    ),
    "checkpoints on the Hub": (
        lambda w: w.train(push_to_hub=True, hub_strategy="every_save"),
        r"--hub_strategy every_save is not supported: only the finished result is published, .*Choose from: end\.",
    ),
    "publishing without the Hub": (
        lambda w: w.train(push_to_hub=True, hub_token="of-a-user"),
        r"The result could not be published: HF_HUB_OFFLINE is set, so the Hub is not asked\. Unset it\.",
    ),
    "unknown task": (
        lambda w: w.train(task="text_clasification"),
        r"Unknown task 'text_clasification'\. Did you mean 'text_classification'\? Choose from: "
        rf"{TASKS}\. .*--task\.",
    ),
    "unknown method": (
        lambda w: w.train(method="lpft"),
        rf"Unknown method 'lpft'\. Did you mean 'lp_ft'\? Choose from: {KNOWN_METHODS}\.",
    ),
    "unknown metric": (
        lambda w: w.train(metric_for_best_model="accurracy"),
        r"Unknown metric 'accurracy'\. Did you mean 'accuracy'\? Choose from: accuracy, f1_macro, .*loss\.",
    ),
    "metric of another kind of labels": (
        lambda w: w.train(metric_for_best_model="subset_accuracy"),
        r"Unknown metric of single_label_classification: 'subset_accuracy'\. .*Choose from: accuracy, .*, loss\.",
    ),
    "learning rate of zero": (
        lambda w: w.train(learning_rate=0),
        r"'learning_rate' must be greater than 0, not 0\.0\.",
    ),
    "negative learning rate": (
        lambda w: w.train(learning_rate=-1e-3),
        r"'learning_rate' must be greater than 0, not -0\.001\.",
    ),
    "no epochs": (lambda w: w.train(epochs=0), r"'num_train_epochs' must be greater than 0, not 0\.0\."),
    "learning rate that is no number": (
        lambda w: w.train(learning_rate="fast"),
        r"'learning_rate' takes a number, not 'fast'\.",
    ),
    "negative seed": (
        lambda w: w.train(seed=-1),
        r"'seed' must be at least 0, not -1\.",
    ),
    "fp16 without a GPU": (
        lambda w: without_a_gpu(w.train(fp16=True)),
        r"fp16 needs a GPU and this machine has none\. Leave out --fp16 \(float32 is used\)\.",
    ),
    "unknown schedule": (
        lambda w: w.train(lr_scheduler_type="cosin"),
        r"Unknown value for 'lr_scheduler_type': 'cosin'\. Did you mean 'cosine'\? Choose from: linear, cosine, .*",
    ),
    "unknown tracker": (
        lambda w: w.train(report_to="wandbb"),
        r"Unknown value for 'report_to': 'wandbb'\. Did you mean 'wandb'\? Choose from: none, all, .*",
    ),
    "tracker that is not installed": (
        lambda w: w.train(report_to=missing_tracker(), dataset=broken(w)),
        r"--report_to \w+: the package \w+ is not installed\. .* pip install 'hf-ft\[trackers\]'\.",
    ),
    "optimizer whose package is not installed": (
        lambda w: w.train(optim="adamw_bnb_8bit", dataset=broken(w)),
        r"--optim adamw_bnb_8bit cannot be used: .*bitsandbytes.*",
    ),
    "several GPUs that are not there": (
        lambda w: w.train(fsdp="full_shard", dataset=broken(w)),
        r"--fsdp splits a model over several GPUs, and this is one process\. Leave it out\.",
    ),
    "endless training": (
        lambda w: w.train(epochs="inf"),
        r"'num_train_epochs' must be at most 1,000,000, not inf\.",
    ),
    "infinite learning rate": (
        lambda w: w.train(learning_rate="inf"),
        r"'learning_rate' must be at most 1,000, not inf\.",
    ),
    "rank of LoRA beyond all layers": (
        lambda w: w.train(method="lora", lora_r=100000),
        r"The rank r of peft:lora is 100,000, and the widest layer that it would adapt has 48 inputs .*",
    ),
    "rank of adapters below zero": (
        lambda w: w.train(method="peft:loha", peft_options='{"r": -1}'),
        r"peft:loha does not work with the options \{'r': -1\} \(.*-1\); without them it does\.",
    ),
    "early stopping without checkpoints": (
        lambda w: w.train(early_stopping_patience=1, save_strategy="no"),
        r"early_stopping_patience needs evaluations\. Leave out the strategy `no`\.",
    ),
    "revision of a folder": (
        lambda w: w.train(model_revision="main"),
        r"--model_revision is for the Hub, and .*/tiny-bert is a local folder\. Leave it out\.",
    ),
    "a revision of a built-in model": (
        lambda w: w.train("image", model="builtin", model_revision="main"),
        r"--model_revision is for the Hub, and builtin is not from there\. Leave it out\.",
    ),
    "unknown built-in model": (
        lambda w: w.train("image", model="builtin:efficientnet"),
        r"Unknown built-in model 'efficientnet'\. Did you mean 'efficientnet-lite\d'\? Choose from: .*, minilm\.",
    ),
    "batches that are larger than the data": (
        lambda w: w.train(dataloader_drop_last=True, per_device_train_batch_size=100),
        r"--dataloader_drop_last leaves nothing to train on: 36 examples make no batch of 100\. .*",
    ),
    "early stopping without evaluations": (
        lambda w: w.train(early_stopping_patience=1, eval_strategy="no"),
        r"early_stopping_patience needs evaluations\. Leave out the strategy `no`\.",
    ),
    "label smoothing for several labels": (
        lambda w: w.train(dataset=w.data["topics"], label_smoothing_factor=0.1),
        r"label_smoothing_factor needs one label per example; these data have several\. Leave it out\.",
    ),
    "class weights for numbers": (
        lambda w: w.train(task="text_regression", dataset=w.data["prices"], class_weights="balanced"),
        r"class_weights applies to classes, and text_regression predicts numbers\. Remove it\.",
    ),
    "a weight for no class": (
        lambda w: w.train(class_weights='{"positiv": 3}'),
        r"Unknown class in class_weights: 'positiv'\. Did you mean 'positive'\? Choose from: negative, positive\.",
    ),
    "a weight below zero": (
        lambda w: w.train(class_weights='{"positive": -3}'),
        r"The weight of class 'positive' in --class_weights must be a number greater than 0 .*, not -3\.",
    ),
    "weights that are no JSON": (
        lambda w: w.train(class_weights="{positive: 3}"),
        r"'class_weights' takes a JSON object, not '\{positive: 3\}'\.",
    ),
    "two corrections of unequal classes": (
        lambda w: w.train(class_weights="sqrt", sampler="balanced"),
        r"--class_weights and --sampler both make rare classes count more, together twice\. Keep one of them\.",
    ),
    "a sampler for several labels": (
        lambda w: w.train(dataset=w.data["topics"], sampler="balanced"),
        r"sampler balanced needs one label per example; these data have several\. Use --class_weights\.",
    ),
    "a sampler for tags": (
        lambda w: w.train(task="token_classification", dataset=w.data["names"], sampler="balanced"),
        r"sampler balanced needs one label per example, and a sentence has many tags\. Use --class_weights\.",
    ),
    "a sampler for numbers": (
        lambda w: w.train(task="text_regression", dataset=w.data["prices"], sampler="balanced"),
        r"sampler applies to classes, and text_regression predicts numbers\. Remove it\.",
    ),
    "a loss for numbers": (
        lambda w: w.train(task="text_regression", dataset=w.data["prices"], loss="focal"),
        r"loss applies to classes, and text_regression predicts numbers\. Remove it\.",
    ),
    "a loss that does not exist": (
        lambda w: w.train(loss="focall"),
        r"Unknown value for 'loss': 'focall'\. Did you mean 'focal'\? Choose from: .*",
    ),
    "a gamma without focal loss": (
        lambda w: w.train(focal_gamma=1),
        r"--focal_gamma does not go with --loss cross_entropy\. Add --loss focal\.",
    ),
    "a solved head with focal loss": (
        lambda w: w.train(method="head", head_solver="exact", loss="focal"),
        r"--head_solver exact: focal loss is not convex\. Leave out --head_solver, and the head trains by steps\.",
    ),
    "label smoothing with focal loss": (
        lambda w: w.train(loss="focal", label_smoothing_factor=0.1),
        r"--label_smoothing_factor does not go with --loss focal\. Keep one of them\.",
    ),
    "a sampler in the order of the data": (
        lambda w: w.train(sampler="balanced", train_sampling_strategy="sequential"),
        r"--sampler draws examples at random, which --train_sampling_strategy sequential rules out\. .*",
    ),
    "a threshold above 1": (
        lambda w: w.train(threshold=1.5),
        r"'threshold' must be less than 1, not 1\.5\.",
    ),
    "a threshold for tags": (
        lambda w: w.train(task="token_classification", dataset=w.data["names"], threshold="auto"),
        r"threshold is for two classes or several labels per example, and a word has one of many tags\. .*",
    ),
    "a metric that needs more classes": (
        lambda w: w.train(metric_for_best_model="top5_accuracy"),
        r"--metric_for_best_model top5_accuracy is undefined on validation: it needs more than 5 classes\. Choose .*",
    ),
    "examples of a class for tags": (
        lambda w: w.train(task="token_classification", dataset=w.data["names"], examples_per_class=2),
        r"examples_per_class and val_examples_per_class need one label an example, and a sentence has many tags\. .*",
    ),
    "metric of another task": (
        lambda w: w.train(task="text_regression", dataset=w.data["prices"], metric_for_best_model="accuracy"),
        r"Unknown metric 'accuracy'\. Choose from: mse, mae, r2, pearson, spearman, loss\.",
    ),
    "kind of labels of another task": (
        lambda w: w.train(task="text_regression", dataset=w.data["prices"], problem_type="single_label_classification"),
        r"Unknown kind of labels for text_regression: 'single_label_classification'\. Choose from: regression\. .*",
    ),
    "separator that is empty": (
        lambda w: w.train(label_separator=""),
        r"'label_separator' is empty\. Set a value, or leave it out\.",
    ),
    "column of another task": (
        lambda w: w.train(task="text_classification", image_column="text"),
        r"--image_column does not go with text_classification, whose inputs are text, text_pair\.",
    ),
    "unknown choice": (
        lambda w: w.train(bad_examples="skp"),
        r"Unknown value for 'bad_examples': 'skp'\. Did you mean 'skip'\? Choose from: error, skip\.",
    ),
    "settings file that is not there": (
        lambda w: w.train(config="nowhere.yaml"),
        r"No such settings file: nowhere\.yaml\. --config takes a YAML file of `option: value` lines\.",
    ),
    "setting given twice in a file": (
        lambda w: w.train(config=written(w, "seed: 1\nmax_steps: 2\nseed: 3\n")),
        r".*/given\.yaml: Duplicate key 'seed' in the mapping that starts on line 1\. Keep one of them\.",
    ),
    "plan that is not there": (
        lambda w: w.train(method=None, plan="nowhere.yaml"),
        r"No such settings file: nowhere\.yaml\. --plan takes a YAML file of `stages:` and a list\.",
    ),
    "plan beside a method": (
        lambda w: w.train(plan=written(w, "stages: []")),
        r"method and plan in the command line exclude each other: .* Keep one of them\.",
    ),
    "plan with a misspelt key": (
        lambda w: w.train(method=None, plan=written(w, "stages: [{name: a, trian: all}]")),
        r"Unknown key in stage 1 of the plan: 'trian'\. Did you mean 'trains'\? Choose from: name, trains, groups, .*",
    ),
    "plan with an unknown option of adapters": (
        lambda w: w.train(method=None, plan=written(w, "stages: [{trains: all, peft: lora, peft_options: {rr: 4}}]")),
        r"Unknown option of peft:lora: 'rr'\. Did you mean 'r'\? Choose from: r, lora_alpha, .*",
    ),
    "PEFT method that cannot merge": (
        lambda w: w.train(method="peft:prefix_tuning"),
        r"peft:prefix_tuning cannot end as a plain model: it adds virtual tokens .* Choose from: adalora, .*\.",
    ),
    "unknown PEFT method": (
        lambda w: w.train(method="peft:vra"),
        r"Unknown PEFT method 'vra'\. Did you mean 'vera'\? Choose from: .* `hf-ft methods --peft` lists them\.",
    ),
    "PEFT options that are no JSON": (
        lambda w: w.train(method="peft:loha", peft_options="{r: 4"),
        r"'peft_options' takes a JSON object, not '\{r: 4'\.",
    ),
    "unknown PEFT option": (
        lambda w: w.train(method="peft:loha", peft_options='{"rank_dropuot": 0.1}'),
        r"Unknown option of peft:loha: 'rank_dropuot'\. Did you mean 'rank_dropout'\? Choose from: .*",
    ),
    "PEFT options without adapters": (
        lambda w: w.train(peft_options='{"r": 4}'),
        r"--peft_options does not go with method 'head', which has no adapters\. Use method lora or peft:NAME\.",
    ),
    "rank of LoRA for another method": (
        lambda w: w.train(method="peft:loha", lora_r=4),
        r"--lora_r is an option of lora, not of loha\. Use --peft_options instead\.",
    ),
    "rank of LoRA given twice": (
        lambda w: w.train(method="lora", lora_r=4, peft_options='{"r": 8}'),
        r"--lora_r is in --peft_options as well\. Keep one of them\.",
    ),
    "pattern that is missing": (
        lambda w: w.train(method="train"),
        r"Method 'train' needs patterns of names\. Use train:PATTERN, for example train:\*attention\*\.",
    ),
}

MODELS: dict[str, Mistake] = {
    "no such model folder": (
        lambda w: w.train(model=beside_a_model(w) / "tiny-bret"),
        r"No such model: .*/tiny-bret\. Did you mean .*/tiny-bert\? Use a Hub id, a folder or a file that exists\.",
    ),
    "folder without config.json": (
        lambda w: w.train(model=without(w.copy("text"), "config.json")),
        r"The folder .*/model holds no model: it has no config\.json, only model\.safetensors, tokenizer\.json, "
        r"tokenizer_config\.json\. Give a folder that save_pretrained wrote\.",
    ),
    "folder with config.json but no weights": (
        lambda w: w.train(model=without(w.copy("text"), "model.safetensors")),
        r"Cannot load weights of '.*/model': .*no file named model\.safetensors found in .*\. To train this "
        r"architecture from random weights use --method scratch\.",
    ),
    "pickled weights only": (
        lambda w: w.train(model=pickled(w.copy("text"))),
        r"'.*/model' has no safetensors, only pickled weights \(pytorch_model\.bin\), and a pickle can run any code\. "
        r"Choose a model with safetensors; --allow_pickle reads pickled weights that you trust\.",
    ),
    "damaged weights": (
        lambda w: w.train(model=replaced(w.copy("text"), "model.safetensors", "no weights")),
        r"Cannot load weights of '.*/model': .*header.*",
    ),
    "damaged config.json": (
        lambda w: w.train(model=replaced(w.copy("text"), "config.json", "{")),
        r"Cannot load the model '.*/model': .*config\.json' is not a valid JSON file\.",
    ),
    "file instead of a folder": (
        lambda w: w.train(model=w.copy("text") / "config.json"),
        r"The model .*/model/config\.json is a file\. Give the folder that holds config\.json and the weights\.",
    ),
    "text model for an image task": (
        lambda w: w.train("image", model=w.models["text"]),
        r"'.*/tiny-bert' is a model of type bert, which does not support image_classification\. It supports "
        rf"({OF_TEXTS})(, ({OF_TEXTS}))*\. Choose a model that AutoModelForImageClassification loads\.",
    ),
    "image model for a text task": (
        lambda w: w.train("text", model=w.models["image"]),
        r"'.*/tiny-resnet' is a model of type resnet, which does not support text_classification\. It supports "
        rf"({OF_IMAGES})(, ({OF_IMAGES}))*\. Choose a model that AutoModelForSequenceClassification loads\.",
    ),
    "image_size that does not fit the weights": (
        lambda w: w.train("image", model=w.copy("vit", image_size=48)),
        r"'.*/model' does not fit its weights: 1 tensors? of the backbone would be random, not pretrained: "
        r"vit\.embeddings\.position_embeddings\. Check config\.json against the checkpoint \(image_size, .*",
    ),
    "intermediate_size that does not fit the weights": (
        lambda w: w.train("image", model=w.copy("vit", intermediate_size=48)),
        r"'.*/model' does not fit its weights: 6 tensors of the backbone would be random, not pretrained: "
        r"vit\.layers\.0\.mlp\.fc1\.bias, .* and 3 more\. Check config\.json .*",
    ),
    "intermediate_size of a text model": (
        lambda w: w.train(model=w.copy("text", intermediate_size=64)),
        r"'.*/model' does not fit its weights: 9 tensors of the backbone would be random, not pretrained: "
        r"bert\.encoder\.layer\.0\.intermediate\.dense\.bias, .* and 6 more\. Check config\.json .*",
    ),
    "gradient checkpointing that the model lacks": (
        lambda w: w.train("image", gradient_checkpointing=True),
        r"--gradient_checkpointing: ResNetForImageClassification does not support it\. Leave it out\.",
    ),
    "size that is text": (
        lambda w: w.train(model=w.copy("text", hidden_size="32")),
        r"Cannot load the model '.*/model': .*'hidden_size'.* expected int, got str .*",
    ),
    "size of zero": (
        lambda w: w.train(model=w.copy("text", hidden_size=0)),
        r"Cannot load weights of '.*/model': .*",
    ),
    "activation that nobody knows": (
        lambda w: w.train(method="scratch", model=w.copy("text", hidden_act="gelo")),
        r"Cannot build a model from the config\.json of '.*/model': KeyError: 'gelo'\.",
    ),
    "pickle that is none": (
        lambda w: w.train(model=replaced(pickled(w.copy("text")), "pytorch_model.bin", "no pickle"), allow_pickle=True),
        r"Cannot load weights of '.*/model': .*\. To train this architecture from random weights use .*",
    ),
    "empty pickle": (
        lambda w: w.train(model=replaced(pickled(w.copy("text")), "pytorch_model.bin", ""), allow_pickle=True),
        r"Cannot load weights of '.*/model': EOFError\. To train .*",
    ),
    "more layers than there are weights": (
        lambda w: w.train(model=w.copy("text", num_hidden_layers=4)),
        r"'.*/model' does not fit its weights: 16 tensors of the backbone would be random, not pretrained: "
        r"bert\.encoder\.layer\.3\..*",
    ),
    "last_n larger than the model": (
        lambda w: w.train(method="last_n:9", dataset=broken(w)),
        r"last_n:9 asks for more blocks than the model has \(3\)\. Use last_n:1 to last_n:3, or `full` to train .*",
    ),
    "pattern that matches nothing": (
        lambda w: w.train(method="train:*qeury*", dataset=broken(w)),
        r"train:\*qeury\* matches no parameter and no module of the model\. .*Choose from \d+, such as bert, .*",
    ),
    "first_n that leaves no block": (
        lambda w: w.train(method="first_n:3"),
        r"first_n:3 would freeze all blocks of the model \(it has 3\)\. Use first_n:1 to first_n:2, or `head` .*",
    ),
    "adapters that fit no layer": (
        lambda w: w.train("image", method="peft:vera"),
        r"peft:vera fits no layer in the blocks of ResNetForImageClassification \(.*\)\. With their usual options .*",
    ),
    "plan that leaves groups out": (
        lambda w: w.train(method=None, plan=written(w, "stages: [{name: a, groups: {head: train}}]")),
        r"groups has no mode for stem, block 0, block 1, block 2, neck\. Set each to frozen, train or adapt\.",
    ),
    "plan that never trains the head": (
        lambda w: w.train(
            method=None,
            plan=written(w, "stages: [{groups: {stem: train, 'block 0-': train, neck: train, head: frozen}}]"),
        ),
        r"No stage trains the head, which is new and so random: .* Let at least one stage have `head: train`\.",
    ),
    "last_n without its number": (
        lambda w: w.train(method="last_n"),
        r"Method 'last_n' needs a number of blocks\. Use last_n:N, for example last_n:2\.",
    ),
    "keep_head with other labels": (
        lambda w: w.train("image", model=w.models["vit"], keep_head=True),
        r"--keep_head: the head of '.*/tiny-vit' has the labels LABEL_0, LABEL_1, LABEL_2, the data blue, green, red\. "
        r"Leave out --keep_head for a fresh head\.",
    ),
    "keep_head with another number of labels": (
        lambda w: w.train("image", keep_head=True),
        r"--keep_head: the head of '.*/tiny-resnet' has the labels LABEL_0, .*LABEL_4, the data blue, green, red\. .*",
    ),
    "timm architecture with a pretrained method": (
        lambda w: w.train("image", model="timm:resnet18"),
        r"timm:resnet18 is an architecture with random weights, and method 'head' needs pretrained ones\. Use "
        r"--method scratch, or pretrained weights from the Hub: --model timm/NAME\.",
    ),
    "unknown timm architecture": (
        lambda w: w.train("image", model="timm:resnet81", method="scratch"),
        r"Unknown timm architecture 'resnet81'\. Did you mean 'resnet18'\? Choose from \d+, such as .*",
    ),
    "layer-wise decay with nothing to decay": (
        lambda w: w.train(method="head", layer_decay="0.9"),
        r"`--layer_decay` acts on blocks, and method 'head' trains the head alone\. Leave it out\.",
    ),
    "texts longer than the model's": (
        lambda w: w.train(max_length="5000"),
        r"max_length 5,000 is more than the model's longest text, 512 tokens\.",
    ),
    "texts of which nothing is left": (
        lambda w: w.train(max_length=2),
        r"max_length 2 leaves nothing of a text, to which the tokenizer adds 2 tokens .* at least --max_length 3\.",
    ),
    "bf16 without a GPU": (lambda w: w.train(bf16=True), r"bf16 was set and this machine has no GPU\. .*--use_cpu.*"),
    "resuming from a path": (lambda w: w.train(resume="some/checkpoint"), r"--resume takes no path: .*"),
    "Hub model without the network": (
        lambda w: w.train(model="nosuch/model"),
        r"Cannot load the model 'nosuch/model': .*HF_HUB_OFFLINE is set\. Unset it, or pass a folder\.",
    ),
}

DATA: dict[str, Mistake] = {
    "no such data set": (
        lambda w: w.train(dataset=w.table(train=OPINIONS).with_name("tabel")),
        r"No such dataset: .*/tabel\. Did you mean .*/table\? Use a Hub id, a folder or a file that exists\.",
    ),
    "Hub data set without the network": (
        lambda w: w.train(dataset="nosuch/data"),
        r"Cannot load the dataset 'nosuch/data': .*HF_HUB_OFFLINE is set\. Unset it, or pass a folder\.",
    ),
    "empty test split": (
        lambda w: w.train(dataset=w.table(train=OPINIONS, test=[])),
        r"The split 'test' of .*/table is empty\. Fill it, remove it, or choose another with --test_split\.",
    ),
    "empty training split": (
        lambda w: w.train(dataset=w.table(train=[], test=OPINIONS)),
        r"The split 'train' of .*/table is empty\. Fill it, remove it, or choose another with --train_split\.",
    ),
    "no training split": (
        lambda w: w.train(dataset=w.table(test=OPINIONS)),
        r"No training split in .*/table; it has: test\. Call it `train`, or name it with --train_split\.",
    ),
    "missing input column": (
        lambda w: w.train(text_column="txt"),
        r"Unknown column in train: 'txt'\. Did you mean 'text'\? Choose from: text, label\. Set --text_column to .*",
    ),
    "missing label column": (
        lambda w: w.train(label_column="lable"),
        r"Unknown column in train: 'lable'\. Did you mean 'label'\? Choose from: text, label\. Set --label_column .*",
    ),
    "no column that can be the text": (
        lambda w: w.train(dataset=w.table(("a", "b", "y", "z"), train=[(*row, *row) for row in OPINIONS])),
        r"No column of train has a usual name for the text \(text, sentence, .*\)\. Its columns: a, b, y, z\. Name "
        r"the right one with --text_column\.",
    ),
    "several columns that can be the text": (
        lambda w: w.train(dataset=w.table(("text", "review", "label"), train=[(a, a, b) for a, b in OPINIONS])),
        r"Several columns of train could be the text: text, review\. Choose with --text_column .*",
    ),
    "several columns that can be the label": (
        lambda w: w.train(dataset=w.table(("text", "label", "category"), train=[(a, b, b) for a, b in OPINIONS])),
        r"Several columns of train could be the label: label, category\. Choose with --label_column\.",
    ),
    "a single class": (
        lambda w: w.train(dataset=w.table(train=[(text, "pos") for text, _ in OPINIONS])),
        r"All examples of train have the label 'pos': classification needs at least two .*",
    ),
    "labels in test that train lacks": (
        lambda w: w.train(dataset=w.table(train=OPINIONS, test=[("so so", "neutral"), ("good", "pos")])),
        r"test has labels that train lacks, with their number of examples: neutral \(1\)\. Train has: neg, pos\..*",
    ),
    "missing label": (
        lambda w: w.train(dataset=w.table(train=[*OPINIONS, ("a film", ""), ("two films", "")])),
        r"train: 2 of 22 examples have no label \(rows 21, 22, counted from 1\)\. Fix them, or skip them with "
        r"--bad_examples skip\.",
    ),
    "empty text": (
        lambda w: w.train(dataset=w.table(train=[*OPINIONS, ("   ", "pos")])),
        r"train: 1 of 21 examples has an empty text \(rows? 21, counted from 1\)\. Fix them, or skip them with "
        r"--bad_examples skip\.",
    ),
    "images cut off": (
        lambda w: w.train("image", dataset=w.images("train/red/3.png", "train/blue/0.png")),
        r"train: 2 of 3\d images cannot be read: (train/\w+/[03]\.png \(.*\),? ?){2}\. Fix them, or skip them "
        r"with --bad_examples skip\.",
    ),
    "tables for an image task": (
        lambda w: w.train("image", dataset=w.data["text"]),
        r"No column of train has a usual name for the image \(.*\)\. Its columns: text, label\. Name the right .*",
    ),
    "images for a text task": (
        lambda w: w.train("text", dataset=w.data["image"]),
        r".*/squares holds 60 images and no table, but the task is text_classification\.",
    ),
    "decimal numbers as classes": (
        lambda w: w.train(dataset=w.data["decimals"]),
        r"Column 'label' holds decimal numbers \(0\.5, 1\.5, 2\.5\)\. To predict numbers, use --task text_regression.*",
    ),
    "text for a number": (
        lambda w: w.train(task="text_regression"),
        r"Column 'label' holds no number \(negative, positive, negative\)\. For classes use --task text_class.*",
    ),
    "texts for a task of words": (
        lambda w: w.train(task="token_classification"),
        r"No column of train has a usual name for the tokens \(tokens, words\)\. Its columns: text, label\. Name .*",
    ),
    "tags that are no lists": (
        lambda w: w.train(task="token_classification", tokens_column="text"),
        r"Column 'text' holds string, not lists of words\. Choose another with --tokens_column\.",
    ),
    "more examples of a class than there are": (
        lambda w: w.train(examples_per_class=3000),
        r"examples_per_class 3,000 is more than train has: negative has 18, positive has 18 left for training\. Set at "
        r"most --examples_per_class 18, .*",
    ),
}

FOLDERS: dict[str, Mistake] = {
    "output folder with a finished run": (
        lambda w: w.train(output_dir=w.old_run("done")),
        r"The output folder .*/done already holds a finished run\. Choose another folder, continue an interrupted run "
        r"with --resume, or replace it with --overwrite_output_dir\.",
    ),
    "output folder with other files": (
        lambda w: w.train(output_dir=replaced(w.copy("text", "notes"), "notes.txt", "mine")),
        r"The output folder .*/notes holds files that hf_ft did not write \(.*\), .* Choose another folder\.",
    ),
    "overwriting what is no run": (
        lambda w: w.train(output_dir=w.copy("text", "mine"), overwrite_output_dir=True),
        r"The output folder .*/mine holds files that hf_ft did not write .* nor --overwrite_output_dir .*",
    ),
    "output folder that is a file": (
        lambda w: w.train(output_dir=w.copy("text") / "config.json"),
        r"No output folder .*/config\.json can be made: .*/config\.json is a file\. Choose another folder\.",
    ),
    "output folder whose name is no UTF-8": (
        lambda w: w.train(output_dir="out\udcff"),
        r"No output folder out.* can be made: its name is not valid UTF-8, .* Choose another folder\.",
    ),
    "output folder whose name is too long": (
        lambda w: w.train(output_dir="x" * 300),
        r"No output folder x+\.\.\. can be made: 'x+\.\.\.' has more than 255 bytes\. Choose another folder\.",
    ),
    "output folder where nobody can write": (
        lambda w: w.train(output_dir="/proc/x"),
        r"No output folder /proc/x can be made: /proc cannot be written to\. Choose another folder\.",
    ),
    "output folder that is a link to nothing": (
        lambda w: w.train(output_dir=dangling(w)),
        r"No output folder .*/link can be made: .*/link is a link to nothing\. Choose another folder\.",
    ),
    "output folder below a file": (
        lambda w: w.train(output_dir=w.copy("text") / "config.json" / "out"),
        r"No output folder .*/config\.json/out can be made: .*/config\.json is a file\. Choose another folder\.",
    ),
}

OTHERS: dict[str, Mistake] = {
    "unknown command": (
        lambda w: ["trian"],
        r"Unknown command 'trian'\. Did you mean 'train'\? Choose from: train, .*\. See hf-ft --help\.",
    ),
    "inspect: no such folder": (
        lambda w: ["inspect", str(beside_a_model(w) / "tiny-bret")],
        r"No such model: .*/tiny-bret\. Did you mean .*/tiny-bert\? Use a Hub id, a folder or a file that exists\.",
    ),
    "inspect: unknown method": (
        lambda w: ["inspect", w.models["text"], "--method", "hed"],
        rf"Unknown method 'hed'\. Did you mean 'head'\? Choose from: {KNOWN_METHODS}\.",
    ),
    "inspect: unknown task": (
        lambda w: ["inspect", w.models["text"], "--task", "text_clasification"],
        rf"Unknown task 'text_clasification'\. Did you mean 'text_classification'\? Choose from: {TASKS}\.",
    ),
    "inspect: last_n larger than the model": (
        lambda w: ["inspect", w.models["text"], "--method", "last_n:4"],
        r"last_n:4 asks for more blocks than the model has \(3\)\. Use last_n:1 to last_n:3, or .*",
    ),
    "inspect: Hub model without the network": (
        lambda w: ["inspect", "nosuch/model"],
        r"Cannot load the model 'nosuch/model': .*HF_HUB_OFFLINE is set\. Unset it, or pass a folder\.",
    ),
    "push: folder without run.json": (
        lambda w: ["push", w.models["text"], "--repo_id", "me/name"],
        r".*/tiny-bert holds no finished training run \(run\.json is missing\)\. Pass the --output_dir of a .*",
    ),
    "push: no such folder": (
        lambda w: ["push", str(w.old_run("done").with_name("doen")), "--repo_id", "me/name"],
        r"No such result folder: .*/doen\. Did you mean .*/done\? Use one that exists\.",
    ),
    "push: no name": (
        lambda w: ["push", w.runs["text"]],
        r"The following arguments are required: --repo_id\. See hf-ft push --help\.",
    ),
    "evaluate: a model that is no classifier": (
        lambda w: ["evaluate", w.models["text"], "--dataset", w.data["text"]],
        r"'.*/tiny-bert' is no classifier that hf_ft supports: its config\.json says BertModel\. Pass a model for .*",
    ),
    "evaluate: no such data set": (
        lambda w: ["evaluate", w.runs["text"], "--dataset", str(w.table(test=OPINIONS).with_name("tabel"))],
        r"No such dataset: .*/tabel\. Did you mean .*/table\? Use a Hub id, a folder or a file that exists\.",
    ),
    "evaluate: no such split": (
        lambda w: ["evaluate", w.runs["text"], "--dataset", w.data["text"], "--split", "tset"],
        r"Unknown test split 'tset'\. Did you mean 'test'\? Choose from: .*",
    ),
    "evaluate: labels that the model does not know": (
        lambda w: ["evaluate", w.runs["text"], "--dataset", str(w.table(test=OPINIONS))],
        r"test has labels that the model does not know, .*: neg \(10\), pos \(10\)\. The model knows: negative, pos.*",
    ),
    "predict: no column of words": (
        lambda w: ["predict", w.runs["names"], str(w.table(("a", "b"), new=[("x", "y")]) / "new.csv")],
        r".*/new\.csv has no column for the tokens: it has a, b\. Name it 'tokens'\.",
    ),
    "predict: a model that is no classifier": (
        lambda w: ["predict", w.models["text"], "a film"],
        r"'.*/tiny-bert' is no classifier that hf_ft supports: its config\.json says BertModel\. Pass a model for .*",
    ),
    "predict: folder without a model": (
        lambda w: ["predict", str(w.folder), "a film"],
        r".* holds no finished training run \(run\.json is missing\)\. Pass the --output_dir of a training run\.",
    ),
    "predict: folder that is spelt in another way": (
        lambda w: ["predict", str(w.old_run("done").with_name("doen")), "a film"],
        r"No such result folder: .*/doen\. Did you mean .*/done\? Use one that exists\.",
    ),
    "predict: no such folder": (
        lambda w: ["predict", "nowhere", "a film"],
        r"No such result folder: .*nowhere\. Use one that exists\.",
    ),
    "predict: no such image": (
        lambda w: ["predict", w.runs["image"], f"{w.data['image']}/test/red/99.png"],
        r"No such file or folder: .*/red/99\.png\. Did you mean .*/red/\d\.png\? Use one that exists\.",
    ),
    "predict: no such table": (
        lambda w: ["predict", w.runs["text"], "nosuch.csv"],
        r"No such file: .*nosuch\.csv\. Use one that exists\.",
    ),
    "predict: no such file of lines": (
        lambda w: ["predict", w.runs["text"], "nosuch.txt"],
        r"No such file: .*nosuch\.txt\. Use one that exists\.",
    ),
    "predict: image cut off": (
        lambda w: ["predict", w.runs["image"], str(w.images("test/red/0.png") / "test")],
        r"1 of 18 images cannot be read: .*/test/red/0\.png \(.*\)\.",
    ),
    "predict: binary data for text": (
        lambda w: ["predict", w.runs["text"], file(w, "data.bin", bytes(range(256)))],
        r".*/data\.bin is no text but binary data\. Give text in UTF-8, one input on each line\.",
    ),
    "predict: UTF-16": (
        lambda w: ["predict", w.runs["text"], file(w, "new.txt", "a film\n".encode("utf-16"))],
        r".*/new\.txt is UTF-16\. Give text in UTF-8, one input on each line\.",
    ),
    "predict: Latin 1": (
        lambda w: ["predict", w.runs["text"], file(w, "new.txt", "fine\ncaf\xe9\n".encode("latin-1"))],
        r".*/new\.txt is not in UTF-8: line 2 holds the byte 0xe9\. Save it in UTF-8, .*",
    ),
    "predict: a table in Latin 1": (
        lambda w: ["predict", w.runs["text"], file(w, "new.csv", "text\ncaf\xe9\n".encode("latin-1"))],
        r".*/new\.csv cannot be read: 'utf-8' codec can't decode byte 0xe9 .*",
    ),
    "predict: nothing": (
        lambda w: ["predict", w.runs["text"], ""],
        r"An input is empty\. Give files, text itself, or - for lines of standard input\.",
    ),
    "predict: no image": (
        lambda w: ["predict", w.runs["image"], ""],
        r"No images in ''\. Known are files that end in \.jpg, .*",
    ),
    "predict: output that is a folder": (
        lambda w: ["predict", w.runs["text"], "a film", "--output", folder(w, "new.csv")],
        r"--output .*/new\.csv .*\.",
    ),
    "predict: output where nobody can write": (
        lambda w: ["predict", w.runs["text"], "a film", "--output", "/proc/x.csv"],
        r"--output /proc/x\.csv cannot be written: /proc cannot be written to\. Choose another file\.",
    ),
    "predict: broken record": (
        lambda w: ["predict", str(changed(w, "text", "run.json", b"{")), "a film"],
        r".*/run\.json is not a valid record of a training run: .*line 1 column 2 .*\. Run the command again\.",
    ),
    "evaluate: empty record": (
        lambda w: ["evaluate", str(changed(w, "text", "run.json", b"")), "--dataset", w.data["text"]],
        r".*/run\.json is not a valid record of a training run: .*\. Run the command again\.",
    ),
    "predict: record without a version": (
        lambda w: ["predict", str(changed(w, "text", "run.json", b'{"hf_ft": "0.1.0", "loss": 1}')), "a film"],
        r".*/run\.json is not a record of a training run that this version .* has no schema version.*",
    ),
    "predict: no weights": (
        lambda w: ["predict", str(changed(w, "text", "model.safetensors", None)), "a film"],
        r"Cannot load the model in .*: .*model\.safetensors.*\. Copy the folder anew, or train again\.",
    ),
    "predict: weights cut off": (
        lambda w: ["predict", str(changed(w, "text", "model.safetensors", 1000)), "a film"],
        r"Cannot load the model in .*: .*\. Copy the folder anew, or train again\.",
    ),
    "evaluate: weights of nothing": (
        lambda w: ["evaluate", str(changed(w, "image", "model.safetensors", b"")), "--dataset", w.data["image"]],
        r"Cannot load the model in .*: .*\. Copy the folder anew, or train again\.",
    ),
    "predict: weights that lack some": (
        lambda w: ["predict", str(fewer_weights(w)), "a film"],
        r"The weights in .* lack classifier\.bias, which would be random\. Train again\.",
    ),
    "compare: last_n larger than the model": (
        lambda w: ["compare", *w.train(method=None, dataset=broken(w), methods="head,last_n:9")[1:]],
        r"last_n:9 asks for more blocks than the model has \(3\)\. Use last_n:1 to last_n:3, or .*",
    ),
    "depth: more frozen blocks than the model has": (
        lambda w: ["depth", *w.train(method=None, dataset=broken(w), depths="0,9")[1:]],
        r"--depths 9: the model has 3 blocks, so 0 \(full\) to 3 \(head\) of them can be frozen\.",
    ),
    "compare: seeds beyond all": (
        lambda w: ["compare", *w.train(method=None, seeds="0,99999999999", dataset=broken(w))[1:]],
        r"--seeds: a seed must be at most 4,294,967,295, not 99999999999\.",
    ),
    "depth: too many seeds": (
        lambda w: ["depth", *w.train(method=None, seeds="4294967296")[1:]],
        r"--seeds 4294967296 is more than 1,000 seeds\. One of them alone is --seeds 4294967296,",
    ),
    "rank: a model without a name": (
        lambda w: ["rank", "", w.models["text"], *w.train(model=None)[1:]],
        r"The name of a model is empty\. Pass Hub ids, folders or builtin\.",
    ),
    "inspect: picture where nobody can write": (
        lambda w: ["inspect", w.models["text"], "--picture", "/proc/x.png"],
        r"--picture /proc/x\.png cannot be written: /proc cannot be written to\. Choose another file\.",
    ),
    "inspect: no model": (lambda w: ["inspect", ""], r"MODEL is empty\. Set a value, .* See hf-ft inspect --help\."),
    "evaluate: no data": (
        lambda w: ["evaluate", w.runs["text"], "--dataset", ""],
        r"--dataset is empty\. Set a value, or leave it out\. See hf-ft evaluate --help\.",
    ),
    "cache: no folder": (lambda w: ["cache", "list", "--cache_dir", ""], r"--cache_dir is empty\. Set a value, .*"),
    "predict: texts for lists of words": (
        lambda w: ["predict", w.runs["names"], file(w, "new.jsonl", b'{"tokens": "a b"}\n')],
        r".*/new\.jsonl: column 'tokens' holds no list of words in row 1\. Give lists of words, or texts in .*",
    ),
    "predict: empty lists of words": (
        lambda w: ["predict", w.runs["names"], file(w, "new.jsonl", b'{"tokens": ["a"]}\n{"tokens": []}\n')],
        r".*/new\.jsonl: column 'tokens' holds no list of words in row 2\. .*",
    ),
    "compare: no methods": (
        lambda w: ["compare", *w.train(method=None, methods=",")[1:]],
        r"--methods is empty\. Give names with commas between them, or leave it out for the usual ones\.",
    ),
    "compare: broken record to draw": (
        lambda w: ["compare", "--redraw", str(drawn(w, "compare.json", "{"))],
        r".*/compare\.json is not a valid record of a comparison: .*\. Run the command again\.",
    ),
    "compare: record of something else to draw": (
        lambda w: ["compare", "--redraw", str(drawn(w, "compare.json", "[]"))],
        r".*/compare\.json is not a record of a comparison that this version .* has no schema version.*",
    ),
    "compare: record to draw without what its rows need": (
        lambda w: ["compare", "--redraw", str(drawn(w, "compare.json", json.dumps(EMPTY_COMPARISON)))],
        r".*/compare\.json is not a valid record of a comparison: '\w+' is missing\. Run the command again\.",
    ),
    "depth: broken record to draw": (
        lambda w: ["depth", "--redraw", str(drawn(w, "depth.json", "\xff"))],
        r".*/depth\.json is not a valid record of a freeze depth search: .*\. Run the command again\.",
    ),
    "depth: nothing to draw": (
        lambda w: ["depth", "--redraw", w.runs["text"]],
        r".*/text holds no finished freeze depth search \(depth\.json is missing\)\. Pass the --output_dir of a .*",
    ),
    "predict: output of another kind": (
        lambda w: ["predict", w.runs["text"], "a film", "--output", "x.txt"],
        r"--output x\.txt .* \.csv or \.jsonl\.",
    ),
    "predict: output in a folder that is not there": (
        lambda w: ["predict", w.runs["text"], "a film", "--output", "nowhere/x.csv"],
        r"No such folder for the output: .*/nowhere\. Use one that exists\.",
    ),
    "predict: batches that are no number": (
        lambda w: ["predict", w.runs["text"], "a film", "--batch_size", "many"],
        r"Argument --batch_size: invalid int value: 'many'\. See hf-ft predict --help\.",
    ),
    "predict: batches of nothing": (
        lambda w: ["predict", w.runs["text"], "a film", "--batch_size", "0"],
        r"--batch_size must be at least 1, not 0\.",
    ),
}

TRAINING = OPTIONS | MODELS | DATA
"""Mistakes in a training run that leave the output folder alone, whatever is in it."""

BARS = re.compile(r"(Generating|Downloading|Casting|Map|Filter)\b.*(examples|split)")
"""Progress bars of `datasets`, which it writes to stderr while it reads."""


def test_mistakes_are_counted() -> None:
    """No name was used twice."""
    assert len(TRAINING | FOLDERS | OTHERS) == sum(map(len, (OPTIONS, MODELS, DATA, FOLDERS, OTHERS)))


def load_recipe(name: str) -> ModuleType:
    """A recipe as a module, under a name of its own."""
    path = Path(__file__).parents[2] / "recipes" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, every folder with None."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def check(world: World, run: Callable[[], int], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one line on stderr that is the message, and not a file that was changed or made."""
    before = contents(world.folder)
    capsys.readouterr()
    assert run() == 2
    printed = capsys.readouterr()
    lines = [line for line in re.split(r"[\r\n]+", printed.err) if line.strip() and not BARS.search(line)]
    assert len(lines) == 1, printed.err
    assert re.fullmatch(f"error: {message}", lines[0]), lines[0]
    assert "Traceback" not in printed.out + printed.err
    assert contents(world.folder) == before


@pytest.mark.parametrize("mistake", [*TRAINING, *FOLDERS, *OTHERS])
def test_mistake_on_the_command_line(mistake: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """`hf-ft` answers on one line, and neither makes the output folder nor touches anything else."""
    words, message = (TRAINING | FOLDERS | OTHERS)[mistake]
    command = words(world)
    check(world, lambda: main(command), message, capsys)
    assert not world.out.exists()


@pytest.mark.parametrize("mistake", TRAINING)
def test_mistake_in_a_recipe_over_an_old_run(mistake: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe answers alike, and with --overwrite_output_dir the old run outlives the mistake."""
    words, message = TRAINING[mistake]
    command = [*words(world)[1:], "--overwrite_output_dir"]
    task = command[command.index("--task") + 1]
    recipe = load_recipe(task if task in task_names() else "text_classification")
    old = world.old_run()
    check(world, lambda: run_command(lambda: recipe.main(command)), message, capsys)
    assert (old / "model.safetensors").read_text() == "old model.safetensors"


def test_bad_examples_are_left_out_and_counted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """With --bad_examples skip the same images train, and how many were left out is printed and recorded."""
    data = world.images("train/red/3.png", "train/blue/0.png", "test/green/1.png")
    assert main(world.train("image", dataset=data, bad_examples="skip")) == 0
    record = json.loads((world.out / "run.json").read_text())
    assert sum(record["data"]["sizes"][split] for split in ("train", "validation")) == 3 * 14 - 2
    assert record["data"]["sizes"]["test"] == 3 * 6 - 1
    printed = capsys.readouterr().out
    for notes in (printed, "\n".join(record["data"]["notes"])):
        left_out = [int(count) for count in re.findall(r"(\d+) of \d+ images cannot be read; skipped", notes)]
        assert sum(left_out) == 3
        assert "train/red/3.png" in notes


def test_bad_texts_are_left_out_and_counted(world: World) -> None:
    """Rows without a text or without a label are left out of a table, each kind with its number."""
    rows = [*OPINIONS, ("  ", "pos"), ("a film", ""), ("two films", "")]
    assert main(world.train(dataset=world.table(train=rows), bad_examples="skip")) == 0
    record = json.loads((world.out / "run.json").read_text())
    notes = "\n".join(record["data"]["notes"])
    assert "train: 2 of 23 examples have no label; skipped." in notes
    assert "train: 1 of 21 examples has an empty text; skipped." in notes
    assert record["data"]["sizes"] == {"train": 18, "validation": 2}


def test_pickled_weights_when_they_are_asked_for(world: World) -> None:
    """What the message recommends works: --allow_pickle reads what was refused without it."""
    assert main(world.train(model=pickled(world.copy("text")), allow_pickle=True)) == 0
    assert json.loads((world.out / "run.json").read_text())["proofs"]["only_head_new"]["loaded"] > 40


def test_old_run_is_replaced_when_that_is_asked_for(world: World) -> None:
    """What the message recommends works: --overwrite_output_dir replaces the run, and nothing else in its folder."""
    old = world.old_run()
    (old / "notes.txt").write_text("mine")
    assert main(world.train(overwrite_output_dir=True)) == 0
    assert json.loads((old / "run.json").read_text())["method"] == "head"
    assert (old / "notes.txt").read_text() == "mine"


EXIT_CODES = {
    0: (["--version"], r"hf-ft \d+\.\d+\.\d+\n", ""),
    2: (["train", "--lerning_rate", "1"], "", r"error: Unknown option '--lerning_rate' .*\n"),
}


@pytest.mark.parametrize("code", EXIT_CODES)
def test_exit_codes_of_a_real_process(code: int, tmp_path: Path) -> None:
    """What a shell sees: the exit code, and nothing on the stream that is not meant."""
    assert len(EXIT_CODES) == 2
    words, out, err = EXIT_CODES[code]
    command = [sys.executable, "-m", "hf_ft", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == code
    assert re.fullmatch(out, done.stdout)
    assert re.fullmatch(err, done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_lines_of_standard_input(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-` stands for them, alone or among other inputs; the order is that of the command line."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a bad film\n\na good one\n")))
    assert main(["predict", world.runs["text"], "first", "-", "last"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["input"] for row in rows] == ["first", "a bad film", "a good one", "last"]


@pytest.mark.parametrize("words", [["methods"], ["--help"], ["--version"], ["models"], ["train", "--help_training"]])
def test_a_reader_that_has_seen_enough(words: list[str]) -> None:
    """As in `hf-ft methods | head -1`: no traceback, and no complaint of the interpreter as it ends."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "hf_ft", *words], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 141


@pytest.mark.parametrize(
    "data", [object(), 3, {}, {"train": "a text"}], ids=["an object", "a number", "nothing", "a text"]
)
def test_data_in_memory_of_another_kind(data: Any, world: World) -> None:
    """What is not data is answered by its type and what can be passed, not by a dump of it, and nothing is written."""
    with pytest.raises(UserError) as caught:
        finetune(task="text_classification", model=world.models["text"], dataset=data, output_dir=str(world.out))
    message = str(caught.value)
    assert type(data).__name__ in message or "str" in message
    assert "pandas.DataFrame" in message
    assert len(message) < 300
    assert "\n" not in message
    assert not world.out.exists()


def test_every_example_is_scored(world: World) -> None:
    """`--dataloader_drop_last` drops examples of training, but none of validation or test."""
    options = {"dataloader_drop_last": True, "per_device_eval_batch_size": 3, "method": "full", "max_steps": 2}
    assert main(world.train(**options)) == 0
    record = json.loads((world.out / "run.json").read_text())
    assert record["data"]["sizes"]["test"] % 3
    assert record["data"]["sizes"]["validation"] % 3
    for split, scores in record["metrics"].items():
        assert scores["accuracy"]["n"] == record["data"]["sizes"][split]
