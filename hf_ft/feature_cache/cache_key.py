"""Keys of the cache: everything that determines a cached tensor, and the file names derived from it.

A tensor is found by two keys. The *key of the features* covers everything that is the same for all examples (weights,
model config, model split, precision, library versions); its digest names a folder. The *fingerprint* of an example
covers its model inputs, so that a subset, another split or a larger dataset reuses the cached features.
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
"""Version of the file format; part of every key, so files of another format are never read."""
FINGERPRINT = np.dtype("V16")
FEATURE_PACKAGES = ("torch", "transformers", "timm")
"""Packages whose version can change the features."""
IMAGE_PACKAGES = ("pillow", "torchvision", "transformers", "timm")
"""Packages whose version can change how images are decoded or resized."""
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
"""Entries of a model config about labels and file locations, which frozen layers do not depend on."""


# --- The key of features ----------------------------------------------------------------------------------------------


def feature_key(request: CacheRequest, split: ModelSplit, layouts: Sequence[Layout]) -> dict[str, Any]:
    """Return everything that the features of a split model depend on besides the example, as JSON values."""
    config: Any = split.model.config
    names = {name for group in split.lower for name in (*group.parameters, *group.buffers)}
    relevant = {name: value for name, value in config.to_dict().items() if name not in IGNORED_CONFIG}
    # The fingerprint of a text covers its tokens; that of an image is its file, which the processor has yet to read.
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
        # Layouts depend on the data: texts of equal length have fixed layouts, all others ragged ones.
        "layouts": [asdict(layout) for layout in layouts],
        "versions": {name: version(name) for name in FEATURE_PACKAGES},
    }


def image_key(describe: str, **facts: Any) -> dict[str, Any]:
    """Return the key of decoded images; `hf-ft cache list` shows `describe`."""
    return {"describe": describe, **facts, "versions": {name: version(name) for name in IMAGE_PACKAGES}}


def precision_of(args: TrainingArguments) -> str:
    """Return the name of the dtype in which the frozen layers run."""
    return "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"


# --- The key of one example -------------------------------------------------------------------------------------------


def fingerprints(rows: Dataset, encoding: str = "") -> NDArray[np.uint8]:
    """Return a 16-byte hash of each encoded row, `(rows, 16)`: of all its model inputs, or of its file.

    Args:
        rows: The encoded split.
        encoding: The identity of code that changes rows when they are read, which their content does not show; see
            `encoding_of`.
    """
    found = np.empty((len(rows), FINGERPRINT.itemsize), dtype=np.uint8)
    files = file_column(rows)
    for place, content in enumerate(encoded_files(rows, files) if files else _inputs(rows)):
        digest = hashlib.blake2b(content, digest_size=FINGERPRINT.itemsize, key=encoding.encode()).digest()
        found[place] = np.frombuffer(digest, dtype=np.uint8)
    return found


def encoded_files(rows: Dataset, name: str) -> Iterator[bytes]:
    """Yield the undecoded files of a column (`hf_ft.tables.file_column`), such as images."""
    plain = rows.with_format(None).select_columns([name])
    for row in plain.cast_column(name, replace(plain.features[name], decode=False)):
        file = row[name]
        yield file["bytes"] if file["bytes"] is not None else Path(file["path"]).read_bytes()


def _inputs(rows: Dataset) -> Iterator[bytes]:
    """Yield name, dtype and bytes of all columns of each row, without its labels and the place of its text."""
    names = sorted(name for name in rows.column_names if name not in ("labels", "example"))
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
    """Return the name of the folder with all shards of one key."""
    return text_digest(f"{FORMAT} {key_text}")[:32]


def shard_name(examples: NDArray[np.void]) -> str:
    """Return the name of the shard of exactly these examples, in this order."""
    return bytes_digest(examples.view(np.uint8).data)[:32]
