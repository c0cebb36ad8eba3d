"""The feature cache in real runs: what is frozen runs once, training is the same, and damage is noticed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    LongformerConfig,
    LongformerModel,
    pipeline,
)

import hf_ft
from hf_ft import UserError, finetune
from hf_ft.cli.app import main
from hf_ft.tasks.registry import task_names
from tests.support.interruption import interrupted_after

EXAMPLES = 300


@pytest.fixture(scope="module")
def still_model(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> str:
    """A tiny BERT without dropout, so that two runs draw the same random numbers."""
    folder = tmp_path_factory.mktemp("models") / "still-bert"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    BertModel(BertConfig(**sizes, **still)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def many_texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Different texts of many lengths in train.csv (300), validation.csv and test.csv."""
    folder = tmp_path_factory.mktemp("data") / "many"
    folder.mkdir()
    for split, count in (("train", EXAMPLES), ("validation", 40), ("test", 16)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            for i in range(count):
                label = ("negative", "positive")[i % 2]
                rows.writerow([f"{'very ' * (i % 23)}{('bad', 'good')[i % 2]} film {split} {i}", label])
    return str(folder)


def train(model: str, data: str, out: Path, **settings: Any) -> dict[str, Any]:
    """The record of a short run."""
    usual = {"task": "text_classification", "num_train_epochs": 3, "per_device_train_batch_size": 16, "seed": 1}
    usual |= {"train_sampling_strategy": "random", "load_back_proof": False, "method": "head"}
    return finetune(**{**usual, "model": model, "dataset": data, "output_dir": str(out), **settings}).record


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The tensors of a finished run."""
    return load_file(out / "model.safetensors")


def alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 1e-4) -> bool:
    """Whether two models are equal up to rounding."""
    assert set(one) == set(other)
    return all(float((one[name] - other[name]).abs().max()) <= tolerance for name in one)


def saved(record: dict[str, Any]) -> list[int | None]:
    """How many examples each stage computed, None where it ran live."""
    return [stage["cache"] and stage["cache"]["computed"] for stage in record["stages"]]


LIMITED = ["lora@last_n:1", "peft:adalora@last_n:2", "bitfit@last_n:1", "train:*layer.2.*LayerNorm*"]
"""Methods that change less than whole groups, above a frozen prefix."""


@pytest.mark.parametrize("method", ["head", "last_n:1", "first_n:2", *LIMITED])
def test_cached_training_is_live_training(method: str, still_model: str, many_texts: str, tmp_path: Path) -> None:
    """The same steps on the same batches give the same weights, and the same scores, whether cached or not."""
    settings = {"method": method, "learning_rate": 1e-3}
    cached = train(still_model, many_texts, tmp_path / "cached", cache_dir=str(tmp_path / "cache"), **settings)
    live = train(still_model, many_texts, tmp_path / "live", cache="off", **settings)
    assert saved(cached) == [EXAMPLES + 40]
    assert saved(live) == [None]
    assert not live["stages"][0]["uncached"]  # nobody has to be told what they said
    assert alike(weights(tmp_path / "cached"), weights(tmp_path / "live"))
    start = load_file(Path(still_model) / "model.safetensors")
    moved = {n for n in start if not torch.equal(start[n], weights(tmp_path / "cached")[f"bert.{n}"])}
    assert bool(moved) == (method != "head")
    for split in ("validation", "test"):
        one, other = (record["metrics"][split]["log_loss"]["value"] for record in (cached, live))
        assert one == pytest.approx(other, abs=1e-4)
    # Features of train and validation, those of test where the scores read them, and the means a head is judged by.
    shards = sum(1 for _ in (tmp_path / "cache").rglob("shard.json"))
    assert shards == {"head": 5}.get(method, 2 if method.startswith(("lora", "peft")) else 3)


def test_dropout_above_the_cut_stays_alive(text_model: str, many_texts: str, tmp_path: Path) -> None:
    """With dropout, two epochs of the same example see other noise: the training loss is above the one without."""
    quiet = tmp_path / "quiet"
    AutoTokenizer.from_pretrained(text_model).save_pretrained(quiet)
    model = AutoModelForSequenceClassification.from_pretrained(text_model)
    model.config.hidden_dropout_prob = 0.0
    model.save_pretrained(quiet)
    losses = []
    for folder in (text_model, str(quiet)):
        config, args = settings_of(
            folder,
            many_texts,
            tmp_path / f"out-{Path(folder).name}",
            learning_rate=1e-9,
            per_device_train_batch_size=30,
        )
        trained = run(config, args)
        losses.append([entry["loss"] for entry in trained.stages[0].history if "loss" in entry])
    noisy, still = losses
    assert max(still) - min(still) < 1e-4 < max(noisy) - min(noisy)


def settings_of(model: str, data: str, out: Path, **settings: Any) -> Any:
    """Config and arguments of a short `head` run by steps."""
    usual = {"task": "text_classification", "method": "head", "model": model, "dataset": data, "output_dir": str(out)}
    usual |= {"num_train_epochs": 3, "load_back_proof": False, "cache": "on"}
    return hf_ft.parse(
        {k: v for k, v in {**usual, **settings}.items() if k in hf_ft.Config.__dataclass_fields__},
        {k: v for k, v in {**usual, **settings}.items() if k not in hf_ft.Config.__dataclass_fields__},
        [],
    )


def run(config: Any, args: Any, watch: Any = None) -> Any:
    """The steps of a recipe up to training; `watch(model)` is called before."""
    splits = hf_ft.load_splits(config, args.seed)
    model, processor, loaded = hf_ft.load_model(config, splits.labels, splits.problem_type, args.seed)
    if watch:
        watch(model)
    plan = hf_ft.make_plan(config, args, loaded.groups, len(splits.train))
    return hf_ft.train(model, processor, splits, plan, config, args, loaded)


def test_second_run_does_not_run_what_is_frozen(text_model: str, many_texts: str, tmp_path: Path) -> None:
    """With another rate and another head the features are there: no example but the few that verify the cut."""
    counts: list[int] = []

    def watch(model: nn.Module) -> None:
        counts.append(0)

        def count(module: nn.Module, args: Any, output: Any) -> None:
            counts[-1] += len(output[0])

        model.get_submodule("bert.encoder.layer.0.attention").register_forward_hook(count)

    cache = {"cache_dir": str(tmp_path / "cache")}
    first = run(*settings_of(text_model, many_texts, tmp_path / "one", **cache), watch)
    second = run(*settings_of(text_model, many_texts, tmp_path / "two", learning_rate=0.01, seed=7, **cache), watch)
    assert [stage.cache["computed"] for stage in (*first.stages, *second.stages)] == [EXAMPLES + 40, 0]
    assert counts[0] - counts[1] == EXAMPLES + 40
    assert counts[1] <= 12 * 8  # twelve passes of the sample at the most


@pytest.mark.parametrize("task", task_names())
def test_every_task_is_cached(task: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A head on each task: its features are computed once, and a second run computes none."""
    data = {
        "image_classification": "image_data",
        "text_classification": "text_data",
        "text_regression": "regression_data",
        "token_classification": "token_data",
    }
    model = request.getfixturevalue("image_model" if task.startswith("image") else "text_model")
    folder = request.getfixturevalue(data[task])
    records = [
        train(model, folder, tmp_path / name, task=task, augment="none", cache_dir=str(tmp_path / "cache"), **more)
        for name, more in (("steps", {}), ("exact", {"head_solver": "exact"}))
    ]
    computed = saved(records[0])[0]
    assert computed is not None
    assert computed > 20
    assert saved(records[1]) == [0]
    assert records[0]["stages"][0]["solver"] is None
    assert records[1]["stages"][0]["solver"]["converged"]
    metric = records[0]["metric"]
    assert records[1]["metrics"]["test"][metric]["n"] == records[0]["metrics"]["test"][metric]["n"]
    assert len(data) == len(task_names())


def test_several_labels_and_stages_share_features(text_model: str, multi_label_data: str, tmp_path: Path) -> None:
    """Stages that freeze alike find what the first one computed; one that freezes less computes its own."""
    stages = [
        {"name": "one", "trains": "head"},
        {"name": "two", "trains": "head", "learning_rate": 0.01},
        {"name": "three", "trains": "last_n:1"},
        {"name": "four", "trains": "all"},
    ]
    settings = {"plan": {"stages": stages}, "num_train_epochs": 8, "cache_dir": str(tmp_path / "cache")}
    record = train(text_model, multi_label_data, tmp_path / "out", **settings | {"method": None})
    assert saved(record) == [48, 0, 48, None]
    assert all(stage["frozen_checked"] for stage in record["stages"][:3])


def test_subset_needs_no_pass(text_model: str, many_texts: str, tmp_path: Path) -> None:
    """A run on part of the data finds its examples; one on more computes the rest only."""
    cache = {"cache_dir": str(tmp_path / "cache")}
    few = train(text_model, many_texts, tmp_path / "few", max_train_examples=60, **cache)
    fewer = train(text_model, many_texts, tmp_path / "fewer", max_train_examples=30, **cache)
    full = train(text_model, many_texts, tmp_path / "full", **cache)
    assert saved(few) == [60 + 40]
    assert saved(fewer)[0] in range(31)  # drawn anew, so some of them may be others
    assert sum(filter(None, [*saved(few), *saved(fewer), *saved(full)])) == EXAMPLES + 40


def test_texts_all_as_long_and_texts_of_many_lengths(text_model: str, many_texts: str, tmp_path: Path) -> None:
    """Where all texts have as many tokens, what is kept has another shape, and a folder of its own."""
    data = tmp_path / "alike"
    data.mkdir()
    for split in ("train", "validation", "test"):
        lines = [f"a {('bad', 'good')[i % 2]} film,{('negative', 'positive')[i % 2]}" for i in range(20)]
        (data / f"{split}.csv").write_text("\n".join(["text,label", *lines]))
    settings = {"method": "last_n:1", "cache_dir": str(tmp_path / "cache")}
    alike_first = train(text_model, str(data), tmp_path / "one", **settings)
    others = train(text_model, many_texts, tmp_path / "two", **settings)
    assert saved(alike_first) == [2]  # two texts, in train and in validation alike
    assert saved(others) == [EXAMPLES + 40]


KEYED: dict[str, dict[str, Any]] = {
    "another depth": {"method": "last_n:1"},
    "another precision": {"cache_dtype": "float16"},
}


@pytest.mark.parametrize("change", KEYED)
def test_key_holds_what_features_depend_on(change: str, text_model: str, many_texts: str, tmp_path: Path) -> None:
    """What changes the features is another key: nothing of before is used."""
    cache = {"cache_dir": str(tmp_path / "cache")}
    train(text_model, many_texts, tmp_path / "before", **cache)
    record = train(text_model, many_texts, tmp_path / "after", **cache, **KEYED[change])
    assert (saved(record)[0] or 0) > 100


def test_key_holds_the_weights(text_model: str, many_texts: str, tmp_path: Path) -> None:
    """One weight of a frozen block that differs is another key; one of the head is not."""
    cache = {"cache_dir": str(tmp_path / "cache")}
    train(text_model, many_texts, tmp_path / "before", **cache)
    AutoTokenizer.from_pretrained(text_model).save_pretrained(tmp_path / "other")
    model = AutoModelForSequenceClassification.from_pretrained(text_model)
    model.save_pretrained(tmp_path / "other")
    assert saved(train(str(tmp_path / "other"), many_texts, tmp_path / "same", **cache)) == [0]
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias[3] += 0.5
    model.save_pretrained(tmp_path / "other")
    assert saved(train(str(tmp_path / "other"), many_texts, tmp_path / "changed", **cache)) == [EXAMPLES + 40]


def test_half_precision_takes_half_the_room(still_model: str, many_texts: str, tmp_path: Path) -> None:
    """Features in float16 or bfloat16 take half the bytes and give about the same result."""
    records = {
        dtype: train(still_model, many_texts, tmp_path / dtype, cache_dtype=dtype, cache_dir=str(tmp_path / "cache"))
        for dtype in ("float32", "float16", "bfloat16")
    }
    sizes = {dtype: record["stages"][0]["cache"]["bytes"] for dtype, record in records.items()}
    assert sizes["float16"] == sizes["bfloat16"] < 0.65 * sizes["float32"]
    assert not alike(weights(tmp_path / "float32"), weights(tmp_path / "bfloat16"), 0.0)
    for dtype in ("float16", "bfloat16"):
        assert alike(weights(tmp_path / "float32"), weights(tmp_path / dtype), 0.05)


LIVE: dict[str, tuple[dict[str, Any], str]] = {
    "adapters": ({"method": "peft:vblora@last_n:2", "peft_options": {"vector_length": 16}}, "share tensors"),
    "one pass": ({"num_train_epochs": 1, "eval_strategy": "no"}, "reads each example once"),
    "noise": ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha adds"),
    "too large": ({"cache_max_gb": 1e-6}, "--cache_max_gb is 1e-06"),
}


@pytest.mark.parametrize("case", LIVE)
def test_runs_live_and_says_why(
    case: str, text_model: str, many_texts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be cached, or does not pay, runs live with its reason; `cache on` makes the reason an error."""
    settings, reason = LIVE[case]
    settings = {"max_train_examples": 40, "cache_dir": str(tmp_path / "cache"), **settings}
    record = train(text_model, many_texts, tmp_path / "out", **settings)
    assert saved(record) == [None]
    assert reason in record["stages"][0]["uncached"]
    assert reason in capsys.readouterr().out
    assert not list((tmp_path / "cache").rglob("*.npy"))
    if case != "one pass":  # which is a loss of time, not of correctness
        with pytest.raises(UserError, match=reason):
            train(text_model, many_texts, tmp_path / "on", cache="on", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"label_smoothing_factor": 0.1},
        {"gradient_checkpointing": True},
        {"gradient_accumulation_steps": 2},
        {"class_weights": "balanced"},
        {"max_grad_norm": 0.1, "weight_decay": 0.5, "optim": "sgd"},
    ],
)
def test_other_settings_do_the_same(
    settings: dict[str, Any], still_model: str, many_texts: str, tmp_path: Path
) -> None:
    """What `Trainer` does beside plain steps is the same on the upper part as on the whole model."""
    common = {"method": "last_n:1", "learning_rate": 1e-3, **settings}
    cached = train(still_model, many_texts, tmp_path / "cached", **common)
    train(still_model, many_texts, tmp_path / "live", cache="off", **common)
    assert saved(cached)[0] is not None
    assert alike(weights(tmp_path / "cached"), weights(tmp_path / "live"))


def test_resumed_in_a_cached_stage(text_model: str, many_texts: str, tmp_path: Path) -> None:
    """Interrupted in its second epoch, a cached stage goes on and ends as if nothing had happened."""
    settings = {"method": "last_n:1", "cache_dir": str(tmp_path / "cache"), "cache": "on"}
    train(text_model, many_texts, tmp_path / "whole", **settings)
    same = {"seed": 1, "per_device_train_batch_size": 16, "train_sampling_strategy": "random", **settings}
    config, args = settings_of(text_model, many_texts, tmp_path / "torn", save_total_limit=None, **same)

    def stop(model: nn.Module) -> None:
        steps = iter(range(10**6))
        forward = model.classifier.forward

        def limited(*inputs: Any) -> Any:
            if next(steps) > 45:
                raise KeyboardInterrupt
            return forward(*inputs)

        model.classifier.forward = limited

    with pytest.raises(KeyboardInterrupt):
        run(config, args, stop)
    assert list((tmp_path / "torn/checkpoints").rglob("checkpoint-*/model.safetensors"))
    train(text_model, many_texts, tmp_path / "torn", resume_from_checkpoint=True, **settings)
    assert alike(weights(tmp_path / "whole"), weights(tmp_path / "torn"), 0.0)


def test_adapters_resumed_in_a_cached_stage(text_model: str, many_texts: str, tmp_path: Path) -> None:
    """Adapters above cached features continue from their checkpoint to the very same merged model and adapter."""
    settings = {"method": "lora@last_n:1", "cache_dir": str(tmp_path / "cache")}
    settings |= {"learning_rate": 1e-2, "per_device_train_batch_size": 32}
    train(text_model, many_texts, tmp_path / "whole", **settings)
    with interrupted_after(15):
        train(text_model, many_texts, tmp_path / "torn", **settings)
    (begun,) = (tmp_path / "torn/checkpoints").rglob("checkpoint-10/model.safetensors")
    names = set(load_file(begun))
    assert {name.partition(".layer.")[2].partition(".")[0] for name in names if ".layer." in name} == {"2"}
    assert any("lora_A" in name for name in names)
    record = train(text_model, many_texts, tmp_path / "torn", resume_from_checkpoint=True, **settings)
    assert saved(record) == [0]
    assert alike(weights(tmp_path / "whole"), weights(tmp_path / "torn"), 0.0)
    one, other = (load_file(tmp_path / out / "adapter/adapter_model.safetensors") for out in ("whole", "torn"))
    assert alike(one, other, 0.0)
    start = load_file(Path(text_model) / "model.safetensors")
    assert any(not torch.equal(start[name], weights(tmp_path / "torn")[f"bert.{name}"]) for name in start)


def test_adapters_and_whole_blocks_share_features(text_model: str, many_texts: str, tmp_path: Path) -> None:
    """What `last_n:1` has cached serves adapters in the last block: the layers below are the same."""
    cache = {"cache_dir": str(tmp_path / "cache"), "num_train_epochs": 2}
    assert saved(train(text_model, many_texts, tmp_path / "blocks", method="last_n:1", **cache)) == [EXAMPLES + 40]
    assert saved(train(text_model, many_texts, tmp_path / "adapters", method="lora@last_n:1", **cache)) == [0]
    assert saved(train(text_model, many_texts, tmp_path / "deeper", method="lora@last_n:2", **cache)) == [EXAMPLES + 40]


def test_limited_adapters_from_the_command_line(text_model: str, text_data: str, tmp_path: Path) -> None:
    """`hf-ft train --method lora@last_n:1` on files ends as a plain model, with its adapter, proved to load back."""
    words = f"train --task text_classification --model {text_model} --dataset {text_data} --method lora@last_n:1"
    assert main([*words.split(), "--num_train_epochs", "2", "--output_dir", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out/run.json").read_text())
    (stage,) = record["stages"]
    assert record["method"] == "lora@last_n:1"
    assert stage["cache"]["split"] == "after block 1"
    assert record["proofs"]["load_back"]["passed"]
    assert (tmp_path / "out/adapter/adapter_model.safetensors").exists()
    start, end = load_file(Path(text_model) / "model.safetensors"), weights(tmp_path / "out")
    moved = {name for name in start if not torch.equal(start[name], end[f"bert.{name}"])}
    assert moved
    assert all(".layer.2." in name and name.endswith("weight") and "norm" not in name.lower() for name in moved)
    answer = pipeline("text-classification", model=str(tmp_path / "out"))("a good film")
    assert answer[0]["label"] in record["data"]["labels"]


def test_an_example_that_cannot_be_kept(text_model: str, tmp_path: Path) -> None:
    """Longformer pads texts to whole windows, so one longer than those tried has other sizes: it runs live."""
    folder, data = tmp_path / "longformer", tmp_path / "data"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    LongformerModel(
        LongformerConfig(**sizes, vocab_size=30522, attention_window=16, max_position_embeddings=128, pad_token_id=0)
    ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(text_model).save_pretrained(folder)
    data.mkdir()
    for split in ("train", "validation", "test"):
        lengths = [3] * 60 + [30]
        texts = [f"{'very ' * n}{('bad', 'good')[i % 2]} film {split}" for i, n in enumerate(lengths)]
        lines = [f"{text},{('negative', 'positive')[i % 2]}" for i, text in enumerate(texts)]
        (data / f"{split}.csv").write_text("\n".join(["text,label", *lines]))
    settings = {"method": "last_n:1", "cache_dir": str(tmp_path / "cache")}
    record = train(str(folder), str(data), tmp_path / "out", **settings)
    assert saved(record) == [None]
    assert "another size for other inputs" in record["stages"][0]["uncached"]
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_random_images_run_live(image_model: str, image_data: str, tmp_path: Path) -> None:
    """Augmentation makes other images in each epoch; without it the same stage is cached."""
    settings = {"task": "image_classification", "method": "last_n:1", "cache_dir": str(tmp_path / "cache")}
    live = train(image_model, image_data, tmp_path / "live", augment="basic", **settings)
    assert "augmentation 'basic'" in live["stages"][0]["uncached"]
    cached = train(image_model, image_data, tmp_path / "cached", augment="none", **settings)
    assert saved(cached)[0]
    assert cached["stages"][0]["frozen_checked"] > 30  # statistics of BatchNorm as well


def test_solver_that_cannot_be(text_model: str, many_texts: str, tmp_path: Path) -> None:
    """An exact head without a cache is a mistake that is told; so is one where no head trains alone."""
    with pytest.raises(UserError, match="head_solver exact: the stage runs without the cache"):
        train(text_model, many_texts, tmp_path / "one", head_solver="exact", cache="off")
    with pytest.raises(UserError, match="head_solver exact: no stage of method 'full' trains the head alone"):
        train(text_model, many_texts, tmp_path / "two", head_solver="exact", method="full")


def test_exact_is_the_default_of_head_only(text_model: str, many_texts: str, tmp_path: Path) -> None:
    """`head` with nothing said about steps is solved exactly; a rate, or epochs, ask for steps."""
    plain = train(text_model, many_texts, tmp_path / "plain", num_train_epochs=None)
    assert plain["stages"][0]["solver"]["converged"]
    assert (tmp_path / "plain/figures/penalties.png").exists()
    assert "penalties.png" in (tmp_path / "plain/README.md").read_text()
    rated = train(text_model, many_texts, tmp_path / "rated", num_train_epochs=None, learning_rate=0.1)
    assert rated["stages"][0]["solver"] is None
    both = train(text_model, many_texts, tmp_path / "both", method="lp_ft", head_solver="exact")
    assert [bool(stage["solver"]) for stage in both["stages"]] == [True, False]


def test_going_back_to_a_cached_stage(text_model: str, many_texts: str, tmp_path: Path) -> None:
    """When a later stage does worse, the whole model of the cached one comes back, what was frozen included."""
    stages = [{"name": "top", "trains": "last_n:1"}, {"name": "wreck", "trains": "all", "learning_rate": 3.0}]
    settings = {"plan": {"stages": stages}, "method": None, "metric_for_best_model": "loss", "num_train_epochs": 4}
    record = train(text_model, many_texts, tmp_path / "out", **settings)
    assert saved(record)[0] is not None
    assert record["stages"][0]["best_metric"] < record["stages"][1]["best_metric"]
    start = load_file(Path(text_model) / "model.safetensors")
    final = weights(tmp_path / "out")
    assert torch.equal(start["encoder.layer.0.output.dense.weight"], final["bert.encoder.layer.0.output.dense.weight"])
    assert not torch.equal(
        start["encoder.layer.2.output.dense.weight"], final["bert.encoder.layer.2.output.dense.weight"]
    )


# --- Damage -----------------------------------------------------------------------------------------------------------


def test_flipped_byte_is_noticed_and_rebuilt(
    still_model: str, many_texts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One byte of the features of train: said, computed again, and the result is that of before."""
    cache = {"cache_dir": str(tmp_path / "cache"), "method": "last_n:1"}
    train(still_model, many_texts, tmp_path / "before", **cache)
    largest = max((tmp_path / "cache").rglob("0.npy"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    capsys.readouterr()
    record = train(still_model, many_texts, tmp_path / "after", **cache)
    assert saved(record) == [EXAMPLES]
    assert record["stages"][0]["cache"]["notes"]
    assert record["stages"][0]["cache"]["notes"][0] in capsys.readouterr().out
    assert alike(weights(tmp_path / "before"), weights(tmp_path / "after"), 0.0)


def test_killed_while_computing(still_model: str, many_texts: str, tmp_path: Path) -> None:
    """SIGKILL in the middle of building: the next run is right, and nothing of the torn part is left."""
    cache = tmp_path / "cache"
    command = [sys.executable, "-m", "hf_ft", "train", "--task", "text_classification", "--method", "last_n:1"]
    command += ["--model", still_model, "--dataset", many_texts, "--num_train_epochs", "2", "--seed", "1"]
    command += ["--cache_dir", str(cache), "--load_back_proof", "false"]
    slow = {**os.environ, "PYTHONPATH": str(slowing(tmp_path))}
    process = subprocess.Popen(
        [*command, "--output_dir", str(tmp_path / "killed")], env=slow, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (begun := list(cache.rglob(".building-*/0.npy"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert begun[0].exists()
    assert not list(cache.rglob("shard.json"))
    again = subprocess.run([*command, "--output_dir", str(tmp_path / "again")], stdout=subprocess.DEVNULL, check=False)
    assert again.returncode == 0
    assert not list(cache.rglob(".building-*"))
    fresh = [*command, "--output_dir", str(tmp_path / "fresh")]
    fresh[fresh.index(str(cache))] = str(tmp_path / "other")
    assert subprocess.run(fresh, stdout=subprocess.DEVNULL, check=False).returncode == 0
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("again", "fresh")]
    assert saved(records[0]) == saved(records[1]) == [EXAMPLES + 40]
    assert alike(weights(tmp_path / "again"), weights(tmp_path / "fresh"), 0.0)


def slowing(folder: Path) -> Path:
    """A folder for PYTHONPATH that makes every write of features take a second: the kill comes in between."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'hf_ft.feature_cache.build':\n"
        "            sys.meta_path.remove(self)\n"
        "            from hf_ft.feature_cache.feature_files import Writer\n"
        "            put = Writer.put\n"
        "            Writer.put = lambda *args: (put(*args), time.sleep(1))[0]\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    return site


def test_two_processes_share_features(still_model: str, many_texts: str, tmp_path: Path) -> None:
    """Two processes train as one job: one computes, the other reads, and the weights are those of running live."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hf_ft"]
    command += ["train", "--task", "text_classification", "--model", still_model, "--dataset", many_texts, "--use_cpu"]
    command += ["--method", "last_n:1", "--num_train_epochs", "2", "--seed", "1", "--load_back_proof", "false"]
    command += ["--cache_dir", str(tmp_path / "cache"), "--per_device_train_batch_size", "16"]
    for name in ("auto", "off"):
        done = subprocess.run([*command, "--cache", name, "--output_dir", str(tmp_path / name)], capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert sum(1 for _ in (tmp_path / "cache").rglob("shard.json")) == 3  # train, validation and test, each once
    cached, live = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("auto", "off"))
    assert (saved(cached), saved(live)) == ([EXAMPLES + 40], [None])
    assert cached["stages"][0]["steps"] == live["stages"][0]["steps"] == 2 * -(-EXAMPLES // (2 * 16))
    assert alike(weights(tmp_path / "auto"), weights(tmp_path / "off"))
