"""Keys of the cache: what decides a stored tensor, and so the names of its files.

A tensor is found by two keys. The *key of the features* covers everything that is the same for all examples (weights,
model config, split, precision, library versions); its digest names a folder. The *fingerprint* of an example covers
what the model is given of it, so that a subset, another split or a larger dataset reads what is already there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray
from transformers import TrainingArguments

from hf_ft.feature_cache.cache_request import CacheRequest
from hf_ft.feature_cache.function_identity import identify
from hf_ft.models import Layout, ModelSplit, snapshot
from hf_ft.storage import bytes_digest, json_digest, text_digest
from hf_ft.tables import batches, file_column, is_list

FORMAT = 2
"""Version of the file format. It is part of every key, so files of another format are never read."""
FINGERPRINT = np.dtype("V16")
FEATURE_PACKAGES = ("torch", "transformers", "timm")
"""Another version of one of these may compute other features."""
IMAGE_PACKAGES = ("pillow", "torchvision", "transformers")
"""Another version of one of these may decode or resize in another way."""
IGNORED_CONFIG = (
    "id2label",
    "label2id",
    "num_labels",
    "label_names",  # timm's wrapper
    "num_classes",
    "problem_type",
    "_name_or_path",
    "architectures",
    "transformers_version",
)
"""Entries of a model config about labels and places: frozen layers do not depend on them."""


# --- The key of features ----------------------------------------------------------------------------------------------


def feature_key(request: CacheRequest, split: ModelSplit, layouts: Sequence[Layout]) -> dict[str, Any]:
    """Everything that the features of a split model depend on besides the example itself."""
    config: Any = split.model.config
    names = {name for group in split.lower for name in (*group.parameters, *group.buffers)}
    relevant = {name: value for name, value in config.to_dict().items() if name not in IGNORED_CONFIG}
    # The fingerprint of a text covers what the tokenizer made of it; that of an image is its file, before processing.
    processing = request.processor.to_dict() if file_column(request.datasets[0]) else {}
    return {
        "model": getattr(config, "architecture", config.model_type),
        "split": split.name,
        "captured": split.describe(),
        "weights": json_digest(snapshot(split.model, names)),
        "config": json_digest(relevant),
        "attention": str(config._attn_implementation),
        "processor": json_digest(processing),
        "collator": identify(request.collator),
        "precision": precision_of(request.args),
        # Texts of one length only have fixed layouts, any others ragged ones.
        "layouts": [asdict(layout) for layout in layouts],
        "versions": {name: version(name) for name in FEATURE_PACKAGES},
    }


def image_key(describe: str, **facts: Any) -> dict[str, Any]:
    """The key of decoded images; `describe` names them in `hf-ft cache list`."""
    return {"describe": describe, **facts, "versions": {name: version(name) for name in IMAGE_PACKAGES}}


def precision_of(args: TrainingArguments) -> str:
    """The dtype that the frozen layers compute in."""
    return "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"


# --- The key of one example -------------------------------------------------------------------------------------------


def fingerprints(rows: Dataset, encoding: str = "") -> NDArray[np.uint8]:
    """16 bytes for each encoded row `(rows, 16)`: the hash of all that the model is given, or of the file.

    What is made of a row only when it is read does not show in its content: `encoding` stands for that.
    """
    found = np.empty((len(rows), FINGERPRINT.itemsize), dtype=np.uint8)
    files = file_column(rows)
    for place, content in enumerate(encoded_files(rows, files) if files else _inputs(rows)):
        digest = hashlib.blake2b(content, digest_size=FINGERPRINT.itemsize, key=encoding.encode()).digest()
        found[place] = np.frombuffer(digest, dtype=np.uint8)
    return found


def encoded_files(rows: Dataset, name: str) -> Iterator[bytes]:
    """The files of a column (`hf_ft.tables.file_column`), such as images, not decoded."""
    plain = rows.with_format(None).select_columns([name])
    for row in plain.cast_column(name, replace(plain.features[name], decode=False)):
        file = row[name]
        yield file["bytes"] if file["bytes"] is not None else Path(file["path"]).read_bytes()


def _inputs(rows: Dataset) -> Iterator[bytes]:
    """All columns of each row but its labels: name, dtype and bytes of each."""
    names = sorted(name for name in rows.column_names if name != "labels")
    for batch in batches(rows.select_columns(names)):
        columns = []
        for name in names:
            cells = batch[name].combine_chunks()
            nested = is_list(rows.features[name])
            values = (pc.list_flatten(cells) if nested else cells).to_numpy(zero_copy_only=False)
            lengths = pc.list_value_length(cells).to_numpy() if nested else np.ones(len(cells), dtype=int)
            columns.append((f"{name} {values.dtype} ".encode(), values, np.append(0, np.cumsum(lengths))))
        for i in range(len(batch)):
            yield b"".join(name + values[ends[i] : ends[i + 1]].tobytes() for name, values, ends in columns)


# --- Names of folders -------------------------------------------------------------------------------------------------


def key_folder_name(key_text: str) -> str:
    """The name of the folder that holds all shards of one key."""
    return text_digest(f"{FORMAT} {key_text}")[:32]


def shard_name(examples: NDArray[np.void]) -> str:
    """The name of the shard that holds exactly these examples, in this order."""
    return bytes_digest(examples.view(np.uint8).data)[:32]
