"""Tiny random models of any architecture: its configuration class with the sizes that it has made small.

The subjects come from the auto-mappings of the installed `transformers` and from timm's list of models, so a new
architecture joins the tests by being installed. What cannot be built is named with its reason, never dropped.
"""

from __future__ import annotations

import functools
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.models.auto import modeling_auto

LABELS = 3
LARGEST = 12_000_000
"""Parameters above which a model is not built: the sizes that make it large have names that no rule knows."""
LARGEST_TIMM = 20_000_000
"""The same for timm, whose constructors take few sizes."""
WORDS = 128
"""Size of every vocabulary."""

MAPPINGS = {
    "image": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "sequence": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
}
"""Kind of classifier -> the mapping of `transformers` that lists its architectures."""


@dataclass(frozen=True)
class Subject:
    """One architecture as a classifier of one kind: `image`, `sequence`, `token` or `timm`."""

    kind: str
    name: str
    class_name: str

    @property
    def id(self) -> str:
        return f"{self.kind}-{self.name}"


class CannotBuild(Exception):
    """An architecture that cannot be made tiny, or that lacks a library; the text says which."""


def subjects(kind: str) -> list[Subject]:
    """Every architecture of a mapping; one per family of timm's models."""
    if kind == "timm":
        return [Subject("timm", name, name) for name in timm_families().values()]
    names = getattr(modeling_auto, MAPPINGS[kind])
    return [
        Subject(kind, model_type, classes if isinstance(classes, str) else classes[0])
        for model_type, classes in names.items()
    ]


@functools.cache
def timm_families() -> dict[str, str]:
    """The smallest architecture of each module of timm that has classifiers: module -> architecture."""
    import timm
    from timm.models import _registry as registry

    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        families.setdefault(registry._model_to_module[name], []).append(name)
    return {module: _smallest(names) for module, names in sorted(families.items())}


def _smallest(names: list[str]) -> str:
    """The name of the smallest of a family, by the words and then the numbers that timm uses for sizes."""
    words = ["test", "zepto", "atto", "femto", "pico", "nano", "xx?tiny", "xxs", "xs", "tiny", "s", "small"]

    def rank(name: str) -> tuple[int, int, int, str]:
        parts = re.split(r"[_\d]+", name)
        size = next((i for i, word in enumerate(words) if any(re.fullmatch(word, part) for part in parts)), len(words))
        numbers = re.findall(r"\d+", name) or ["0"]
        return size, int(numbers[0]), len(name), name

    return min(names, key=rank)


# --- Making a configuration small -------------------------------------------------------------------------------------

DEPTH, WIDTH, INSIDE, HEADS, HEAD_SIZE = 3, 32, 48, 2, 16
LIMITS: tuple[tuple[str, int], ...] = (
    (r".*vocab_size", WORDS),
    (r"num_hidden_layers|num_layers|n_layers?|(num_)?(en|de)coder_layers|num_self_attends_per_block", DEPTH),
    (r"(num_)?(key_value|attention|kv|self_attention|cross_attention)_heads|n_heads?|num_heads", HEADS),
    (r"num_(self|cross)_attention_heads|(en|de)coder_attention_heads|num_attention_heads|index_n_heads", HEADS),
    (r".*head_dim|d_kv|d_head|kv_channels|attention_head_(dim|size)|query_pre_attn_scalar|rotary_dim", HEAD_SIZE),
    (r".*lora_rank", HEAD_SIZE),
    (
        r"hidden_size|d_model|n_embd|dim|embed_dim|emb_dim|embedding_size|word_embed_proj_dim|projection_(size|dim)",
        WIDTH,
    ),
    (r"pooler_(hidden_size|output_size)|(in|out)put_embedding_size|prediction_head_size|d_latents", WIDTH),
    (r"pronunciation_embed_dim|shape_embed_dim|out_hidden_size|output_dim|entity_emb_size|decoder_hidden_size", WIDTH),
    (r"_label_trainable_num_channels|mamba_headdim|downsample_hidden_size|attention_hidden_size", WIDTH),
    (r"intermediate_size|((en|de)coder_)?ffn_dim|d_ff|dff|d_inner|ffn_hidden_size|feed_forward_size", INSIDE),
    (r"hidden_dim|moe_intermediate_size|shared_expert_intermediate_size|prompt_mid_dim", INSIDE),
    (r"image_size|input_size", 64),
    (r"patch_size", 8),
    (r"(num|n)_(local_|routed_)?experts", 4),
    (r"num_experts_per_tok|moe_topk", 2),
    (r"topk_group|n_group", 1),
    (r"max_position_embeddings|n_positions|max_seq_len|max_2d_position_embeddings", 160),
    (r"sliding_window|attention_window|local_attention|block_size|window_size", 16),
)
"""Names of sizes -> how large they may be."""


def shrink(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration that are sizes, made small."""
    small: dict[str, Any] = {}
    mixed = len(set(map(str, config.get("layer_types") or ()))) > 1
    for name, value in config.items():
        if isinstance(value, dict) and "model_type" in value:
            small[name] = shrink(value) | {"model_type": value["model_type"]}
        elif isinstance(value, list | tuple):
            small |= _shrink_list(name, list(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            number = _shrink_number(name, value)
            if number != value:
                small[name] = number
    if mixed:
        kinds = list(dict.fromkeys(config["layer_types"]))
        small["layer_types"] = (kinds * 4)[: max(len(kinds), DEPTH + 1)]
        small["num_hidden_layers"] = len(small["layer_types"])
    return small


def _shrink_number(name: str, value: int) -> int:
    if name.endswith(("_token_id", "_token_index")):
        return _token(name, value)
    return min([value, *(limit for pattern, limit in LIMITS if re.fullmatch(pattern, name))])


def _token(name: str, value: int) -> int:
    """Small different numbers for special tokens; padding is 0."""
    fixed = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return fixed.get(name, value if value < WORDS else WORDS - 1 - zlib.crc32(name.encode()) % 8)


def _shrink_list(name: str, values: list[Any]) -> dict[str, Any]:
    if not values or not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return {}
    if re.fullmatch(r"depths|num_block_repeats|stage_num_blocks|n_attn_blocks|depth", name):
        return {name: [min(value, 2) for value in values]}
    if re.fullmatch(r"hidden_sizes|embed_dims?|neck_hidden_sizes|base_attn_unit_dims", name):
        scale = max(1, min(values) // 16)
        return {name: [max(16, value // scale // 16 * 16) for value in values]}
    if name == "image_size":
        return {name: [64] * len(values)}
    return {}


_LATENT = {"num_attention_heads": 2, "num_key_value_heads": 2, "qk_head_dim": 32, "head_dim": 16, "n_routed_experts": 4}
_LATENT |= {"num_experts_per_tok": 2, "q_lora_rank": 16, "kv_lora_rank": 16}
BY_HAND: dict[str, dict[str, Any]] = {
    "bit": {"num_groups": 8},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")
        },
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "pooling": "mean",
    },
    "cvt": {"depth": [1, 2, 3], "embed_dim": [16, 48, 96]},
    "deepseek_v2": _LATENT,
    "donut-swin": {"embed_dim": 48, "window_size": 2},
    "efficientnet": {
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "kernel_sizes": [3, 3, 5],
        "in_channels": [32, 16, 32],
        "out_channels": [16, 32, 48],
        "depthwise_padding": [],
        "strides": [1, 2, 2],
        "num_block_repeats": [1, 2, 2],
        "expand_ratios": [1, 6, 6],
        "hidden_dim": 1280,
    },
    "esm": {"vocab_size": 33, "mask_token_id": 32},
    "gpt_neo": {
        "attention_types": [[["global", "local"], 2]],
        "num_layers": 4,
        "attention_layers": ["global", "local"] * 2,
    },
    "hgnet_v2": {
        "stem_channels": [3, 16, 16],
        "stage_in_channels": [16, 32, 48, 64],
        "stage_mid_channels": [16, 16, 16, 16],
        "stage_out_channels": [32, 48, 64, 80],
        "stage_numb_of_layers": [2, 2, 2, 2],
        "hidden_sizes": [32, 48, 64, 80],
        "depths": [1, 1, 2, 1],
        "embedding_size": 16,
    },
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 16},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "levit": {"patch_size": 16, "image_size": 224},
    "lilt": {"hidden_size": 48, "intermediate_size": 64},
    "ministral": {"head_dim": 16},
    "mistral4": _LATENT | {"head_dim": 32},
    "nemotron": {"num_key_value_heads": 2},
    "perceiver": {"v_channels": 32, "qk_channels": 32, "num_latents": 16, "num_self_attention_heads": 2},
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh", "local"],
        "num_hidden_layers": 3,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 2,
        "hash_seed": 0,
        "is_decoder": False,
        "num_attention_heads": 2,
    },
    "swiftformer": {"depths": [3, 3, 3, 3]},
    "swin": {"embed_dim": 48, "window_size": 2},
    "swinv2": {"embed_dim": 48},
    "t5": {"decoder_start_token_id": 0},
    "textnet": {"depths": [3, 4, 4, 4], "stem_out_channels": 16, "hidden_sizes": [16, 16, 32, 48, 64]},
    "timm_wrapper": {"architecture": "test_resnet"},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 5,
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid"],
        "attention_hidden_size": 64,
        "attention_head_dim": 32,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "zamba2": {
        "num_hidden_layers": 5,
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid"],
        "layer_types": ["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid"],
        "hybrid_layer_ids": [2, 4],
        "attention_hidden_size": 64,
        "attention_head_dim": 32,
        "kv_channels": 16,
        "num_query_groups": 2,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "adapter_rank": 16,
        "chunk_size": 8,
        "use_mamba_kernels": False,
    },
}
"""Model type -> settings that no general rule finds, mostly sizes that must agree with one another."""


def configuration(subject: Subject) -> transformers.PreTrainedConfig:
    """The configuration of a tiny model of that architecture."""
    config_class = CONFIG_MAPPING[subject.name]
    full = config_class().to_dict()
    small = shrink(full) | BY_HAND.get(subject.name, {})
    config = config_class(**small, num_labels=LABELS)
    config.pad_token_id = 0
    config.get_text_config().pad_token_id = 0
    config.architectures = [subject.class_name]
    return config


def build(subject: Subject) -> PreTrainedModel:
    """A tiny random model, in evaluation mode, that gives each example its logits.

    Raises:
        CannotBuild: with the reason.
    """
    from hf_ft.models.grouping import undeclared_sharing

    torch.manual_seed(zlib.crc32(subject.id.encode()))
    try:
        model = _build_timm(subject) if subject.kind == "timm" else _build(subject)
        with torch.no_grad():
            logits = getattr(model(**batch(model)), "logits", None)
    except CannotBuild:
        raise
    except Exception as error:  # whatever an architecture's own code raises is the reason why it is left out
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
        reason = lines[0 if isinstance(error, ImportError) else -1]  # a missing library is named first
        raise CannotBuild(f"{type(error).__name__}: {reason}") from error
    if logits is None or logits.shape[-1] != LABELS:
        raise CannotBuild("its answer has no logits, one for each label, and it takes no labels for a loss")
    if shared := undeclared_sharing(model):
        raise CannotBuild(f"save_pretrained refuses shared weights that the model does not declare: {shared[:2]}")
    return model


def _build(subject: Subject) -> PreTrainedModel:
    model_class = getattr(transformers, subject.class_name)
    config = configuration(subject)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in model_class(config).parameters())
    if count > LARGEST:
        raise CannotBuild(f"{count:,} parameters even with small sizes")
    return _ready(model_class(config))


def _build_timm(subject: Subject) -> PreTrainedModel:
    """A model of timm with few layers and small images, as far as its constructor takes such words."""
    best: tuple[int, dict[str, Any]] | None = None
    for words in TIMM_WORDS:
        try:
            with torch.device("meta"):
                model = _timm_model(subject.name, words)
                model.eval()(torch.rand(1, 3, *_timm_size(model)))
        except Exception:  # the words of one constructor are foreign to another
            continue
        count = sum(parameter.numel() for parameter in model.parameters())
        if best is None or count < best[0]:
            best = count, words
        if count < LARGEST / 4:
            break
    if best is None or best[0] > LARGEST_TIMM:
        raise CannotBuild(f"{best[0]:,} parameters in its smallest form" if best else "does not run on this machine")
    model = _ready(_with_small_images(_timm_model(subject.name, best[1])))
    model.config.architectures = [type(model).__name__]
    return model


def _with_small_images(model: PreTrainedModel) -> PreTrainedModel:
    """Images of 64 or 96 pixels where the model takes any size."""
    native = model.timm_model.default_cfg
    for size in (64, 96):
        model.timm_model.default_cfg = {**native, "input_size": (3, size, size)}
        try:
            with torch.no_grad():
                model.eval()(torch.rand(1, 3, *_timm_size(model)))
            return model
        except Exception:  # as many kinds of error as there are authors
            model.timm_model.default_cfg = native
    return model


TIMM_WORDS: tuple[dict[str, Any], ...] = (
    {"img_size": 64, "depth": 2},
    {"img_size": 64},
    {"depth": 2},
    {"depths": (1, 1, 2, 1)},
    {"layers": (1, 1, 2, 1)},
    {},
)
"""What constructors of timm call their sizes, to be tried one after another."""


def _timm_model(name: str, words: dict[str, Any]) -> PreTrainedModel:
    config = transformers.TimmWrapperConfig(architecture=name, num_labels=LABELS, model_args=words)
    return transformers.TimmWrapperForImageClassification(config)


def _timm_size(model: PreTrainedModel) -> tuple[int, int]:
    from hf_ft.modalities.image import image_shape

    return image_shape(model)[1:]


def _ready(model: PreTrainedModel) -> PreTrainedModel:
    """Lively weights, and BatchNorm statistics of real activations: else deep nets damp all examples to one answer."""
    enliven(model)
    model = model.float()
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if norms:
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None  # the mean of what is seen
        with torch.no_grad():
            model(**batch(model, 6))
        for norm in norms:
            norm.momentum = 0.1
    return model.eval()


def enliven(model: nn.Module) -> None:
    """Weights by fan-in, no gain near zero, no dropout: as built, many nets give all examples the same logits."""
    for module in model.modules():
        for name in ("p", "drop_prob", "drop_path", "dropout", "hidden_dropout_prob"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)  # a block left out in training would have no gradient
    with torch.no_grad():
        for module in model.modules():
            for name, value in module.named_parameters(recurse=False):
                if not value.is_floating_point():
                    continue
                if isinstance(module, nn.Embedding):
                    value.normal_()
                    if module.padding_idx is not None:
                        value[module.padding_idx] = 0  # as it is initialised, and by some models at every loading
                elif "norm" in type(module).__name__.lower() and name == "weight" and value.ndim == 1:
                    value.normal_(1, 0.1)
                elif value.ndim >= 2 and name.endswith("weight"):
                    gain = 2 if value.ndim > 2 else 1  # most convolutions are followed by a ReLU
                    value.normal_(0, math.sqrt(gain / max(1, value[0].numel())))
                elif value.numel() and bool((value == value.flatten()[0]).all()):
                    level = float(value.flatten()[0])
                    if abs(level) < 0.01 and (level != 0 or value.ndim >= 2):
                        value.normal_(0.5, 0.1) if value.ndim < 2 else value.normal_(0, 0.1)
                    elif level == 0:
                        value.normal_(0, 0.02)


def batch(model: PreTrainedModel, examples: int = 4, length: int = 16) -> dict[str, torch.Tensor]:
    """Different examples: random images, or random sentences of full length without special tokens but the last."""
    from hf_ft.models.tracing import example_inputs

    generator = torch.Generator().manual_seed(1)
    one = example_inputs(model)
    found = {}
    for name, value in one.items():
        if name == "input_ids":
            words = min(getattr(model.config.get_text_config(), "vocab_size", WORDS), WORDS)
            ids = torch.randint(5, words - 10, (examples, length), generator=generator)
            if isinstance(getattr(model.config.get_text_config(), "eos_token_id", None), int):
                ids[:, -1] = model.config.get_text_config().eos_token_id
            found[name] = ids
        elif name == "attention_mask":
            found[name] = torch.ones(examples, length, dtype=torch.long)
        elif value.is_floating_point():
            found[name] = torch.randn(examples, *value.shape[1:], generator=generator)
        else:
            found[name] = value.expand(examples, *value.shape[1:]).clone()
    return found


# --- A tiny model as a user finds it ----------------------------------------------------------------------------------


def save_with_processor(subject: Subject, model: PreTrainedModel, folder: Path) -> None:
    """Write the model as a folder of the Hub: weights, configuration, and tokenizer or image processor."""
    from hf_ft.modalities.image import image_shape

    text = subject.kind in ("sequence", "token")
    size = {} if text else dict(zip(("height", "width"), image_shape(model)[1:], strict=True))
    if subject.kind == "timm":  # its wrapper keeps what prepares an image in the configuration
        model.config.pretrained_cfg = {"input_size": [3, *size.values()], "mean": [0.5] * 3, "std": [0.5] * 3}
    model.save_pretrained(folder)
    if subject.kind == "image":
        transformers.ViTImageProcessor(size=size).save_pretrained(folder)
    elif text:
        tokenizer_for(model).save_pretrained(folder)
        chosen = transformers.AutoTokenizer.from_pretrained(folder)
        if not chosen("w4 w5", add_special_tokens=False)["input_ids"]:
            # Of some models (Qwen2) the configuration decides the class whatever was saved: pieces of bytes.
            letters = {letter: i for i, letter in enumerate(["<pad>", "<unk>", "</s>", "\u0120", *"w0123456789"])}
            filled = letters | {f"w{i}": i for i in range(len(letters), WORDS)}
            options = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
            type(chosen)(vocab=filled, merges=[], **options).save_pretrained(folder)


def tokenizer_for(model: PreTrainedModel) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of the words `w4`, `w5`, ... as large as the model's vocabulary, with its padding and end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    config = model.config.get_text_config()
    size, end = getattr(config, "vocab_size", None) or WORDS, getattr(config, "eos_token_id", None)
    end = end if isinstance(end, int) else 2
    special = {0: "<pad>", 3: "<unk>", end: "</s>"}
    vocabulary = {special.get(i, f"w{i}"): i for i in range(min(size, WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", end)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        padding_side="left" if model.config.model_type in LEFT else "right",
        model_input_names=["input_ids", "attention_mask"],
    )


LEFT = ("xlnet",)
"""Read the last token of the batch, and so are padded on the left, as their tokenizers do."""
