"""The code in the `README.md` of an export: from a raw input to its answer without hf_ft, tried before it is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_ft.export.examples import Examples
from hf_ft.modalities import InputCode
from hf_ft.records import RunRecord

TRIED = 8
"""Examples on which code for inputs is compared with the run's processor."""
NEAR = 0.1
"""Largest difference of pixels, after normalisation, that counts as the rounding of another resampling of 8 bits."""
START = """import json

import numpy as np
{imports}

FOLDER = "."  # the folder of this README
with open(f"{{FOLDER}}/config.json", encoding="utf-8") as file:
    labels = [name for _, name in sorted(json.load(file)["id2label"].items(), key=lambda pair: int(pair[0]))]
"""
LOADED = {
    "onnx": """session = onnxruntime.InferenceSession(f"{FOLDER}/model.onnx")
names = [one.name for one in session.get_inputs()]


def logits_of(arrays):
    return session.run(["logits"], {name: arrays[name] for name in names})[0]""",
    "openvino": """options = {"INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16, on processors that have it
model = openvino.Core().compile_model(f"{FOLDER}/openvino_model.xml", "CPU", options)
names = [one.any_name for one in model.inputs]


def logits_of(arrays):
    return np.array(model({name: arrays[name] for name in names})["logits"])""",
    "torch_export": """model = torch.export.load(f"{FOLDER}/model.pt2").module()


def logits_of(arrays):
    with torch.no_grad():
        return model(**{name: torch.from_numpy(arrays[name]) for name in NAMES})["logits"].numpy()""",
}
IMPORTS = {"onnx": "import onnxruntime", "openvino": "import openvino", "torch_export": "import torch"}
SINGLE = """def predict(*example):
    logits = logits_of(inputs(*example))[0].astype(np.float64)
    shares = np.exp(logits - logits.max())
    return dict(zip(labels, (shares / shares.sum()).tolist()))"""
SEVERAL = """def predict(*example):
    logits = logits_of(inputs(*example))[0].astype(np.float64)
    return dict(zip(labels, (1 / (1 + np.exp(-logits))).tolist()))"""
NUMBER = """def predict(*example):
    return {labels[0]: float(logits_of(inputs(*example))[0, 0])}"""
TAGS = """def predict(words):
    logits, found = logits_of(inputs(words))[0], {}
    for token, word in enumerate(word_ids(words)):
        if word is not None and word not in found:  # the first token of a word has its tag
            found[word] = labels[int(logits[token].argmax())]
    return [(words[word], tag) for word, tag in found.items()]"""


def input_code(folder: Path, examples: Examples, limit: int) -> InputCode:
    """Return the plainest code that prepares inputs as the run's processor does, tried on a few examples.

    Args:
        folder: The folder of the export, with the files of the processor in it.
        examples: Real examples.
        limit: Most tokens of a text.
    """
    words = examples.task.reduce is not None
    candidates = examples.task.modality.input_code(examples.processor, limit, words)
    with tempfile.TemporaryDirectory() as scratch:
        rows = examples.rows.select(range(min(TRIED, len(examples.rows))))
        raw = examples.task.raw(rows, examples.processor, examples.settings, Path(scratch))
        encoded = examples.task.encode(raw.rows, examples.processor, examples.settings, False)
        collate = examples.task.collator(examples.processor)
        wanted = [dict(collate([encoded[place]])) for place in range(len(raw.inputs))]
        for candidate in candidates:
            if _fits(candidate, folder, raw.inputs, wanted):
                return candidate
    return candidates[-1]


def _fits(candidate: InputCode, folder: Path, raw: Sequence[Any], wanted: Sequence[dict[str, Any]]) -> bool:
    """Whether code gives the arrays of the run's own processor."""
    world: dict[str, Any] = {"np": np, "FOLDER": str(folder)}
    try:
        exec(compile(candidate.text, "README.md", "exec"), world)
        found = [world["inputs"](*_arguments(example)) for example in raw]
    except Exception:  # a tokenizer without a tokenizer.json, for one: the next candidate is tried
        return False
    return all(
        _near(arrays.get(name), value.numpy())
        for arrays, batch in zip(found, wanted, strict=True)
        for name, value in batch.items()
        if name != "labels"
    )


def _arguments(example: Any) -> list[Any]:
    """The arguments of `inputs` and `predict` for a raw input of a pipeline: a pair of texts is a dictionary."""
    return [example[name] for name in ("text", "text_pair")] if isinstance(example, dict) else [example]


def _near(found: Any, wanted: Any) -> bool:
    if found is None or found.shape != wanted.shape:
        return False
    return bool(
        np.abs(np.asarray(found, np.float64) - wanted).max(initial=0) <= (NEAR if wanted.dtype.kind == "f" else 0)
    )


def usage_code(record: RunRecord, format_name: str, names: Sequence[str], code: InputCode, example: str) -> str:
    """Return the whole code, from imports to a printed answer.

    Args:
        names: The inputs of the model.
        example: The arguments of the last call, as Python code.
    """
    own, rest = _imports(code.text)
    imports = [IMPORTS[format_name], *own]
    third = sorted(line for line in imports if line.startswith("import "))
    lines = "\n".join([*third, *sorted(line for line in imports if line.startswith("from "))])
    start = START.format(imports=lines) + LOADED[format_name].replace("NAMES", repr(list(names)))
    return "\n\n\n".join([start, rest, _answer(record)]) + f"\n\n\nprint(predict({example}))"


def _imports(text: str) -> tuple[list[str], str]:
    """The lines of imports at the top of some code, and the rest."""
    lines = text.splitlines()
    found = [line for line in lines if line.startswith(("import ", "from "))]
    return found, "\n".join(line for line in lines if line not in found).strip("\n")


def _answer(record: RunRecord) -> str:
    """The function `predict`, by the kind of labels."""
    known: dict[str, str] = {"multi_label_classification": SEVERAL, "regression": NUMBER, "token_classification": TAGS}
    text = known.get(record.data.problem_type, SINGLE)
    threshold = record.threshold if record.data.problem_type == "multi_label_classification" else None
    if threshold is not None:
        chosen = f"[name for name, share in predict(*example).items() if share >= {threshold!r}]"
        return f"{text}\n\n\ndef labels_of(*example):\n    return {chosen}"
    if record.rare_class is not None:
        rare = record.rare_class
        return f"{text}\n\n\ndef decided(*example):\n    return predict(*example)[{rare.label!r}] >= {rare.value!r}"
    return text
