"""Every architecture times every contract: frozen is frozen, the head is the head, and the result loads back.

Without options a sample runs; `pytest --matrix` takes every image, sequence and token classifier that the installed
`transformers` has and one of each family of timm. What each subject showed is written to the folder that
`HF_FT_FACTS` names; `tests/support/architectures.py` turns that into the table in docs/architectures.md.
"""

from __future__ import annotations

import copy
import functools
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from transformers import PreTrainedModel

from hf_ft import UserError
from hf_ft.cli.app import main
from hf_ft.methods.method_spec import MethodSpec
from hf_ft.modalities.image import timm_image_settings
from hf_ft.models import adapters
from hf_ft.models.freezing import set_trainable
from hf_ft.models.grouping import DepthGroups, depth_groups, label_sized_parameters
from hf_ft.models.head_affine import affine_of_head, why_no_affine
from hf_ft.models.load import load_weights
from hf_ft.models.loading_output import silent_loading
from hf_ft.models.model_split import UpperPart
from hf_ft.models.module_calls import CannotSplit
from hf_ft.models.optimizer_groups import rated_groups
from hf_ft.models.split_search import split_at
from hf_ft.models.timm_layout import save_model
from hf_ft.models.tracing import evaluating, padding_matters
from hf_ft.settings.schema import Config
from tests.support.contracts import (
    adapter_reloaded,
    collator,
    gradients,
    labels_for,
    logits,
    padded,
    reloaded,
    rows_of,
    same_bits,
    same_logits,
    stages,
    tensors,
    train,
    with_gradient,
)
from tests.support.tiny_models import LABELS, LEFT, CannotBuild, Subject, batch, build, save_with_processor, subjects

KINDS = ("image", "sequence", "token", "timm")
SAMPLE = (
    "image-levit",
    "image-mobilevit",
    "image-resnet",
    "image-swin",
    "image-vit",
    "sequence-albert",
    "sequence-bart",
    "sequence-bert",
    "sequence-gpt2",
    "sequence-mixtral",
    "sequence-qwen3_next",
    "token-deberta-v2",
    "token-modernbert",
    "timm-test_efficientnet",
    "timm-test_vit",
)
"""Convolution and attention, encoder, decoder and both, experts, linear attention, a shared block, two heads."""
METHODS = ("head", "last_n:1", "full", "lora")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One set of tests for each subject, which run one after another."""
    if "subject" in metafunc.fixturenames:
        everything = [subject for kind in KINDS for subject in subjects(kind)]
        all_of_them = metafunc.config.getoption("--matrix") and metafunc.function is not test_other_methods
        kinds = ("timm",) if metafunc.function is test_timm_loads_what_is_saved else KINDS
        chosen = [one for one in everything if (all_of_them or one.id in SAMPLE) and one.kind in kinds]
        metafunc.parametrize("subject", [pytest.param(s, id=s.id) for s in chosen], scope="module")


def test_sample_is_there() -> None:
    """Each of the sample is an architecture that exists."""
    there = {subject.id for kind in KINDS for subject in subjects(kind)}
    assert set(SAMPLE) <= there
    assert len(SAMPLE) == 15


@functools.lru_cache(maxsize=2)
def built(subject: Subject) -> tuple[PreTrainedModel, DepthGroups, dict[str, torch.Tensor], torch.Tensor] | str:
    """The tiny model with its depth groups, a batch and labels; or why it cannot be built."""
    transformers.logging.set_verbosity_error()
    try:
        model = build(subject)
    except CannotBuild as error:
        return str(error)
    inputs = batch(model, 2 if subject.kind == "timm" else 4)  # timm's are larger, since they take few sizes
    return model, depth_groups(model), inputs, labels_for(model, inputs)


@pytest.fixture
def tiny(subject: Subject) -> Any:
    """Model, depth groups, inputs and labels of a subject; left out by name and reason where it cannot be built."""
    found = built(subject)
    if isinstance(found, str):
        record(subject, left_out=found)
        assert subject.id not in SAMPLE, found  # what else cannot be built is counted by tests/support/architectures.py
        pytest.skip(f"{subject.id} is left out: {found}")
    return found


def record(subject: Subject, **facts: Any) -> None:
    """Note what a subject showed, where the table of architectures is made from it."""
    if folder := os.environ.get("HF_FT_FACTS"):
        path = Path(folder) / f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": subject.kind, "name": subject.name, **facts}) + "\n")


def last(groups: DepthGroups) -> str:
    """`last_n:1`, or `head` for a model without blocks."""
    return "last_n:1" if groups.of_role("block") else "head"


def test_parts(subject: Subject, tiny: Any) -> None:
    """The head holds what depends on the labels; each tensor is in exactly one group; examples get other logits."""
    model, groups, inputs, _ = tiny
    named = [name for group in groups for name in (*group.parameters, *group.buffers)]
    real = [name for name, _ in [*model.named_parameters(), *model.named_buffers()]]
    assert sorted(named) == sorted(real)
    assert len(groups.of_role("head")) == 1
    head = groups.of_role("head")[0]
    assert label_sized_parameters(model) <= set(head.parameters)
    assert label_sized_parameters(model)
    answers = logits(model, inputs)
    assert torch.isfinite(answers).all()
    assert float((answers - answers[:1]).abs().max()) > 1e-3 * float(answers.abs().max())
    blocks, stated = len(groups.of_role("block")), stated_depth(model)
    if stated:
        assert blocks == stated or subject.id in OTHER_DEPTH
    record(
        subject,
        blocks=blocks,
        stated=stated,
        first=groups.of_role("block")[0].modules[0] if blocks else None,
        head=sorted(name for name in head.modules if any(p.startswith(name) for p in head.parameters)),
        unused=len(groups.of_role("unused")[0].parameters) if groups.of_role("unused") else 0,
        shared=len(groups.shared),
        classes=type(model).__name__,
    )


OTHER_DEPTH = {
    "image-levit": "each of its depths is an attention and a feed-forward block, and stages are joined by two more",
    "image-efficientnet": "num_hidden_layers is four times the number of blocks in its configuration",
    "sequence-albert": "one block runs num_hidden_layers times",
    "token-albert": "one block runs num_hidden_layers times",
}
"""Where the blocks are not as many as the configuration states, and why."""


def stated_depth(model: PreTrainedModel) -> int | None:
    """The number of blocks that a configuration states."""
    if hasattr(model, "timm_model"):
        return None
    config = model.config.get_text_config() if "input_ids" in batch(model) else model.config
    config = getattr(config, "vision_config", config)
    if model.config.is_encoder_decoder and hasattr(model.config, "encoder"):
        sides = (model.config.encoder.get_text_config(), model.config.decoder)
        return sum(side.num_hidden_layers for side in sides)
    parts = [getattr(config, name, None) for name in ("encoder_layers", "decoder_layers")]
    if model.config.is_encoder_decoder and all(parts):
        return sum(parts)
    depths = next((value for name in ("depths", "depth") if isinstance(value := getattr(config, name, None), list)), 0)
    if depths:
        return sum(depths)
    layers = getattr(config, "num_hidden_layers", None)
    decoder = getattr(config, "num_decoder_layers", None)
    both = decoder and hasattr(model.base_model, "decoder")
    return (layers + decoder if both else layers) if isinstance(layers, int) else None


def test_only_the_head_is_new(subject: Subject, tiny: Any, tmp_path: Path) -> None:
    """Loading a checkpoint for other labels makes the head fresh and nothing else."""
    model, _, _, _ = tiny
    model.save_pretrained(tmp_path)
    settings = copy.deepcopy(model.config)
    labels = [f"class {i}" for i in range(LABELS + 2)]
    settings.id2label, settings.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    torch.manual_seed(7)
    config = Config(task="text_classification", model=str(tmp_path), method=MethodSpec("head"))
    with silent_loading():
        loaded, new, count, groups, _ = load_weights(config, AUTO[subject.kind], str(tmp_path), settings, [], [])
    assert new
    assert new <= set(groups.of_role("head")[0].parameters)
    before, after = tensors(model), tensors(loaded)
    assert set(before) == set(after)
    same = {name for name in before if same_bits(before[name], after[name])}
    assert set(before) - same == new
    assert count >= len(same) - sum(1 for name, _ in model.named_buffers() if name not in model.state_dict())


AUTO = {
    "image": "AutoModelForImageClassification",
    "timm": "AutoModelForImageClassification",
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
}


@pytest.mark.parametrize("method", METHODS)
def test_training_moves_what_trains_and_nothing_else(subject: Subject, method: str, tiny: Any, tmp_path: Path) -> None:
    """What has a gradient and trains moves, all else keeps its bits; the result loads back to the same logits."""
    model, groups, inputs, labels = tiny
    method = last(groups) if method == "last_n:1" else method
    (stage,) = stages(method, groups)
    if method in UNTRAINED.get(subject.id, []):
        with pytest.raises(UserError) as refusal:
            train(model, stage, inputs, labels, tmp_path / "run")
        record(subject, **{method.partition(":")[0]: str(refusal.value)})
        return
    result = train(model, stage, inputs, labels, tmp_path / "run")
    reference = with_gradient(model, inputs, labels)
    trained = set(result.stage.trained_parameters)
    adapters_only = {name for name in result.trainable if "lora_" in name}
    assert result.trainable == trained | adapters_only
    assert result.optimized == result.trainable
    assert trained & reference <= result.moved
    assert trained & reference
    buffers = {name for group, setting in result.stage if setting.whole for name in group.buffers}
    assert result.moved <= trained | adapters_only | buffers
    if method == "full":
        record(subject, still=sorted(trained - reference))
    if method != "lora":
        assert same_logits(logits(reloaded(result.model, tmp_path / "out"), inputs), logits(result.model, inputs))
        return
    assert adapters_only
    assert any("lora_B" in name for name in result.moved)
    answers = logits(result.model, inputs)
    assert not same_logits(answers, logits(model, inputs))
    assert same_logits(logits(adapter_reloaded(result.model, model, tmp_path / "adapter"), inputs), answers)
    merged = adapters.merge(result.model)
    assert same_logits(logits(reloaded(merged, tmp_path / "out"), inputs), answers)


UNSCALED: dict[str, str] = {}
"""Subjects whose last layer cannot hold a scale of the logits, and why."""


def test_calibration_fits_into_the_head(subject: Subject, tiny: Any, tmp_path: Path) -> None:
    """Scale and shift of the logits go into the last layer and load back; tags are refused."""
    model, _, inputs, _ = tiny
    why = why_no_affine(model, False)
    if subject.kind == "token" or subject.id in UNSCALED:
        assert why
        record(subject, uncalibrated=why)
        return
    assert why == ""
    shift = None if why_no_affine(model, True) else np.linspace(-1, 1, LABELS)
    expected = logits(model, inputs) * 0.5 + (0 if shift is None else torch.as_tensor(shift).float())
    folded = copy.deepcopy(model)
    affine_of_head(folded, 0.5, shift).fold(folded)
    assert same_logits(logits(folded, inputs), expected)
    assert same_logits(logits(reloaded(folded, tmp_path), inputs), expected)
    record(subject, shifted=shift is not None)


def test_timm_loads_what_is_saved(subject: Subject, tiny: Any, tmp_path: Path) -> None:
    """A model of timm gives the same logits by `timm.create_model` and by `from_pretrained`; labels come along."""
    model, _, inputs, _ = tiny
    model.config.pretrained_cfg = timm_image_settings(model.config.architecture)
    save_model(model, tmp_path)
    expected = logits(model, inputs)
    assert same_logits(logits(type(model).from_pretrained(tmp_path), inputs), expected)
    by_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert same_logits(by_timm(inputs["pixel_values"]), expected)
    assert list(by_timm.pretrained_cfg["label_names"]) == list(model.config.id2label.values())


DEPTHS = 12
"""About how many depths of a model are tried at most."""


def test_cut_at_every_depth(subject: Subject, tiny: Any) -> None:
    """At each boundary the split model gives the logits of the whole one, examples re-ordered, re-batched, re-padded.

    A boundary that cannot be split says why; `tests/support/architectures.py` counts how many can. With everything
    frozen below the head, and at the middle, a split is found at this boundary or the nearest below.
    """
    model, groups, inputs, _ = tiny
    rows = rows_of(inputs) if subject.kind in ("sequence", "token") else rows_of(inputs, (16,))
    collate = collator(0, subject.name in LEFT)
    used = [group for group in groups if group.role != "unused"]
    before, own = tensors(model), [vars(module).get("forward") for module in model.modules()]
    refused, splits = {}, {}
    names, blocks = [group.name for group in used], groups.of_role("block")
    middle = names[names.index(blocks[max(1, len(blocks) // 2) - 1].name) + 1] if blocks else ""
    heights = [place for place in range(1, len(used)) if (used[place - 1].role, used[place].role) != ("stem", "block")]
    step = -(-len(heights) // DEPTHS)  # of deep models some depths, the middle and the head among them
    heights = [place for place in heights if (len(used) - 1 - place) % step == 0 or names[place] == middle]
    for height in heights:
        try:
            split = split_at(model, used, height, rows, collate)
        except CannotSplit as error:
            refused[used[height].name] = str(error)
            continue
        upper = UpperPart(split)
        below = {name for group in used[:height] for name in (*group.parameters, *group.buffers)}
        assert not below & set(tensors(upper))
        held = dict(upper.named_parameters())
        above = {name for group in used[height:] for name in group.parameters}
        assert above <= set(held)
        lower = {id(model.get_parameter(name)) for group in used[:height] for name in group.parameters}
        assert all(id(held[name]) in lower for name in set(held) - above)  # weights that both use
        splits[used[height].name] = split, upper
    assert own == [vars(module).get("forward") for module in model.modules()]
    assert all(same_bits(before[name], value) for name, value in tensors(model).items())
    for place in {middle, "head"} & set(splits):
        whole, other = collate(rows), collate(rows[::-1])
        split, upper = splits[place]
        kept = [torch.cat(parts) for parts in zip(*reversed(split.unbatch(split.capture(other), other)), strict=True)]
        trained = sorted(name for group in used[names.index(place) :] for name in group.parameters)
        live = slopes(model, whole, trained)
        with split.installed():
            cached = slopes(upper, {"features": kept, **whole}, trained)
        size = sum(float((slope**2).sum()) for slope in live) ** 0.5
        assert size > 0
        assert sum(float(((a - b) ** 2).sum()) for a, b in zip(cached, live, strict=True)) ** 0.5 <= SLOPES * size
        assert all(bool(a.any()) == bool(b.any()) for a, b in zip(cached, live, strict=True))
    record(
        subject,
        boundaries=len(heights),
        refused=refused,
        middle=middle,
    )


SLOPES = 1e-2
"""Largest distance between gradients, relative to their size."""


def slopes(model: torch.nn.Module, inputs: dict[str, Any], names: list[str]) -> list[torch.Tensor]:
    """The gradients of named parameters for one weighting of the logits, in evaluation mode; padding has none."""
    parameters = dict(model.named_parameters())
    with evaluating(model):
        logits = model(**inputs).logits
        logits = logits[inputs["attention_mask"].bool()] if logits.ndim == 3 else logits
        total = (logits * torch.linspace(-1, 1, logits.shape[-1])).sum()
        found = torch.autograd.grad(total, [parameters[name] for name in names], allow_unused=True)
    return [torch.zeros(1) if slope is None else slope for slope in found]


PARTS = ("first_n:1", "lp_ft", "gradual", "bitfit", "norms", "train:*weight")
ADAPTERS = ("peft:hra", "peft:ia3", "peft:loha", "peft:lokr", "peft:oft", "peft:vera")


def expected_parts(method: str, model: PreTrainedModel, groups: DepthGroups) -> list[set[str]]:
    """What trains in each stage, said without the code of the methods."""
    head = set(groups.of_role("head")[0].parameters)
    used = {name for group in groups if group.role != "unused" for name in group.parameters}
    below = {name for group in groups if group.role in ("stem", "neck", "block") for name in group.parameters}
    if method == "first_n:1":
        blocks, neck = groups.of_role("block"), groups.of_role("neck")
        return [head | {name for group in (*blocks[1:], *neck) for name in group.parameters}]
    if method == "lp_ft":
        return [head, used]
    if method == "bitfit":
        return [head | {name for name in below if name.endswith("bias")}]
    if method == "norms":
        named = [(name, part) for name, part in model.named_modules() if "norm" in type(part).__name__.lower()]
        return [
            head
            | (below & {f"{name}.{key}" for name, part in named for key, _ in part.named_parameters(recurse=False)})
        ]
    return [head | {name for name in below if name.endswith("weight")}]


def nothing_to_train(method: str, model: PreTrainedModel, groups: DepthGroups) -> bool:
    """Whether a method would leave all but the head frozen, so that it must be refused."""
    if method == "first_n:1":
        return len(groups.of_role("block")) < 2
    below = method in ("bitfit", "norms")
    return below and expected_parts(method, model, groups) == [set(groups.of_role("head")[0].parameters)]


@pytest.mark.parametrize("method", PARTS)
def test_parts_that_train_are_those_and_the_optimizer_holds_them(subject: Subject, method: str, tiny: Any) -> None:
    """For each stage of the methods that are not trained above: what trains, and the groups of the optimizer."""
    model, groups, _, _ = tiny
    model = copy.deepcopy(model)
    if nothing_to_train(method, model, groups):
        with pytest.raises(UserError) as refusal:
            stages(method, groups)
        record(subject, **{method.partition(":")[0]: str(refusal.value)})
        return
    planned = stages(method, groups)
    sets = []
    for stage in planned:
        set_trainable(model, stage)
        found = {name for name, p in model.named_parameters() if p.requires_grad}
        names = {id(p): name for name, p in model.named_parameters()}
        rated = rated_groups(model, stage, 0.01)
        held = [names[id(p)] for group in rated for p in group["params"]]
        assert len(held) == len(set(held))
        assert set(held) == found
        rates = {names[id(p)]: group["lr"] for group in rated for p in group["params"]}
        assert all(rates[name] > 0 for name in found)
        sets.append(found)
    if method == "gradual":
        assert all(before < after for before, after in pairwise(sets))
        assert sets[-1] == {name for group in groups if group.role != "unused" for name in group.parameters}
        assert sets[0] == set(groups.of_role("head")[0].parameters)
    else:
        assert sets == expected_parts(method, model, groups)


@pytest.mark.parametrize("method", [*PARTS, *ADAPTERS])
def test_other_methods(subject: Subject, method: str, tiny: Any, tmp_path: Path) -> None:
    """On the named subjects, each stage of each other method: what trains moves, all else keeps its bits."""
    model, groups, inputs, labels = tiny
    if method in REFUSALS.get(subject.id, []):
        with pytest.raises(UserError):
            train(model, stages(method, groups)[-1], inputs, labels, tmp_path)
        return
    reference = with_gradient(model, inputs, labels)
    planned = stages(method, groups)
    for stage in planned if method == "gradual" else planned[-1:]:
        result = train(model, stage, inputs, labels, tmp_path / stage.name)
        trained = set(stage.trained_parameters)
        whole = [group for group, setting in stage if setting.whole]
        buffers = {name for group in whole for name in group.buffers}
        added = result.trainable - {name for name, _ in model.named_parameters()}
        assert result.optimized == result.trainable == trained | added
        assert bool(added) == bool(stage.peft)
        assert trained & reference <= result.moved
        assert result.moved & set(tensors(model)) <= trained | buffers
        if stage.peft:
            assert added & result.moved
            answers = logits(result.model, inputs)
            merged = adapters.merge(result.model)
            assert same_logits(logits(reloaded(merged, tmp_path / "out"), inputs), answers)


REFUSALS = {
    "image-resnet": ["peft:vera"],
    "sequence-albert": ["first_n:1"],
    "sequence-gpt2": ["peft:hra", "peft:loha", "peft:lokr", "peft:oft"],
    "sequence-mixtral": ["bitfit"],
    "token-modernbert": ["bitfit"],
    "timm-test_efficientnet": ["peft:vera"],
}
"""Which of the named subjects refuse which of these methods: PEFT takes no convolutions or no Conv1D there or wants
larger layers than these tiny ones, there are no biases, or no block above the first (ALBERT)."""


UNTRAINED = {
    "image-bit": ["lora"],  # its convolutions standardise their weights, so that nothing merges into them
    "image-mobilenet_v1": ["lora"],  # its code asks convolutions for what PEFT's wrappers do not pass on
    "image-mobilenet_v2": ["lora"],
    "sequence-ibert": ["lora"],  # its layers give a tensor and its scale
    "token-ibert": ["lora"],
    "sequence-reformer": ["last_n:1", "lora"],  # reversible layers pass no gradient above frozen ones
    "sequence-squeezebert": ["lora"],  # one-dimensional convolutions
    "token-squeezebert": ["lora"],
    "timm-dla34": ["lora"],  # a module of its own is called `base_layer`, as PEFT's are
}
"""All architectures that refuse a method which every other one takes, and why."""


def test_checkpointing_gives_the_same_gradients(subject: Subject, tiny: Any) -> None:
    """Recomputing activations changes memory and time, not the gradients."""
    model, _, inputs, labels = tiny
    record(subject, checkpointing=model.supports_gradient_checkpointing)
    if not model.supports_gradient_checkpointing:
        with pytest.raises(ValueError, match="does not support"):
            gradients(model, inputs, labels, checkpointing=True)
        return
    without = gradients(model, inputs, labels, checkpointing=False)
    with_it = gradients(model, inputs, labels, checkpointing=True)
    assert set(without) == set(with_it)
    scale = max(float(gradient.abs().max()) for gradient in without.values())
    for name, gradient in without.items():
        torch.testing.assert_close(with_it[name], gradient, rtol=1e-4, atol=1e-6 * scale, msg=name)


def test_padding_and_batching(subject: Subject, tiny: Any) -> None:
    """A text's logits do not depend on its neighbours; where they depend on its padding, that is found and told."""
    model, _, inputs, _ = tiny
    answers = logits(model, inputs)
    alone = logits(model, {name: value[:1] for name, value in inputs.items()})
    assert same_logits(alone, answers[:1])
    if set(inputs) != {"input_ids", "attention_mask"}:
        return
    longer = logits(model, padded(inputs, 7, model.config.get_text_config().pad_token_id))
    if longer.ndim == 3:
        longer = longer[:, : answers.shape[1]]
    matters = padding_matters(model)
    record(subject, padding=matters)
    if not matters:
        assert same_logits(longer, answers)


TASKS = {
    "image": "image_classification",
    "timm": "image_classification",
    "sequence": "text_classification",
    "token": "token_classification",
}
NAMES = ["ant", "bee", "wasp"]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Task -> data as files: a folder of images by class, a table of texts, lists of words with their tags."""
    folder, random = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for split, count in {"train": 6, "validation": 3, "test": 3}.items():
        texts = [" ".join(f"w{number}" for number in random.integers(4, 30, 9 + i)) for i in range(count)]
        labels = [NAMES[i % 3] for i in range(count)]
        for i, label in enumerate(labels):
            place = folder / "image_classification" / split / label
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(place / f"{i}.png")
        (folder / "text_classification").mkdir(exist_ok=True)
        rows = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
        (folder / "text_classification" / f"{split}.csv").write_text("\n".join(["text,label", *rows]))
        (folder / "token_classification").mkdir(exist_ok=True)
        tagged = [{"tokens": text.split(), "tags": (NAMES * 9)[: len(text.split())]} for text in texts]
        lines = "\n".join(map(json.dumps, tagged))
        (folder / "token_classification" / f"{split}.jsonl").write_text(lines)
    return {path.name: str(path) for path in folder.iterdir()}


NOT_FROM_FILES = {
    "image-imagegpt": "reads the colours of pixels as tokens, and is refused",
    "image-siglip2": "reads the shape of each image beside its patches, and is refused",
    "sequence-reformer": "its training takes texts whose length is a multiple of its chunks",
}
"""All architectures that do not train on files, and why."""


@pytest.mark.usefixtures("quick_proof")
def test_from_files_by_the_command_line_to_a_plain_pipeline(
    subject: Subject, tiny: Any, tmp_path: Path, files: dict[str, str]
) -> None:
    """`hf-ft train` on files; without hf_ft, the pipeline answers raw inputs with the names and scores of the run."""
    model, task = tiny[0], TASKS[subject.kind]
    save_with_processor(subject, copy.deepcopy(model), tmp_path / "model")
    words = ["train", "--task", task, "--model", str(tmp_path / "model"), "--dataset", files[task]]
    words += ["--method", "full", "--max_steps", "1", "--output_dir", str(tmp_path / "out")]
    if subject.id in NOT_FROM_FILES:
        code = failed = None
        try:
            code = main(words)
        except ValueError as error:
            failed = str(error)
        assert failed or code == 2
        record(subject, not_from_files=NOT_FROM_FILES[subject.id])
        return
    assert main(words) == 0
    proof = json.loads((tmp_path / "out" / "run.json").read_text())["proofs"]["load_back"]
    assert proof["passed"]
    assert proof["examples"] == 3
    assert {"id2label", "labels", "scores"} <= set(proof["compared"])
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").id2label == dict(enumerate(NAMES))
    record(subject, pipeline=proof["largest_difference"])
