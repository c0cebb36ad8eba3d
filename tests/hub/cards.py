"""The metadata of a card as the Hub reads it: what it refuses, what it warns of, and the tags that it makes of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

_LICENSES = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gemma
gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2
llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 open-mdw openrail openrail++ osl-3.0 other pddl
postgresql unknown unlicense wtfpl zlib
"""
LICENSES = frozenset(_LICENSES.split())
"""The identifiers in https://huggingface.co/docs/hub/repositories-licenses."""
RELATIONS = ("adapter", "finetune", "merge", "quantized")
REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]+)?|code|multilingual")
HEADS = {
    "ForImageClassification": "image-classification",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
}
"""Ends of the names of architectures, and the pipeline that the Hub infers from them."""


def front_matter(text: str) -> Any:
    """The YAML between the `---` lines at the top of a card; None without them.

    Raises:
        yaml.YAMLError: It cannot be parsed.
    """
    found = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    return yaml.safe_load(found.group(1)) if found else None


def validation(text: str) -> tuple[list[str], list[str]]:
    """The errors and warnings that the Hub has for a card."""
    try:
        data = front_matter(text)
    except yaml.YAMLError as error:
        return [f"YAML error: {' '.join(str(error).split())}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["The metadata must be an object"], []
    warnings = [f'"{key}" is empty' for key, value in data.items() if value is None]
    return list(_problems({key: value for key, value in data.items() if value is not None})), warnings


def _problems(data: Mapping[str, Any]) -> Iterator[str]:
    for key in ("tags", "datasets", "metrics", "language", "base_model", "license"):
        value = data.get(key, [])
        if not all(isinstance(one, str) for one in _listed(value)):
            yield f'"{key}" must be a string or a list of strings'
    for key in ("pipeline_tag", "library_name", "license_name", "base_model_relation"):
        if not isinstance(data.get(key, ""), str):
            yield f'"{key}" must be a string'
    for one in _listed(data.get("license", [])):
        if one not in LICENSES:
            yield f'"license" must be one of [{", ".join(sorted(LICENSES))}]'
    if data.get("base_model_relation", "finetune") not in RELATIONS:
        yield f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]'
    for key in ("base_model", "datasets"):
        for one in _listed(data.get(key, [])):
            if not REPO_ID.fullmatch(str(one)):
                yield f'"{key}" with value "{one}" is not valid. Use an id from https://hf.co.'
    for one in _listed(data.get("language", [])):
        if not LANGUAGE.fullmatch(str(one)):
            yield f'"language" with value "{one}" is not valid. It must be an ISO 639-1, 639-2 or 639-3 code'
    yield from _problems_of_results(data.get("model-index", []))


def _problems_of_results(index: Any) -> Iterator[str]:
    """What is missing in `model-index`, or of another type than it must have."""
    if not isinstance(index, list):
        yield '"model-index" must be an array'
        return
    for number, model in enumerate(index):
        here = f"model-index[{number}]"
        if not (isinstance(model, dict) and isinstance(model.get("name"), str)):
            yield f'"{here}.name" is required'
            continue
        for place, result in enumerate(model.get("results") or []):
            at = f"{here}.results[{place}]"
            required = {"task": ("type",), "dataset": ("type", "name")}
            for key, fields in required.items():
                yield from (f'"{at}.{key}.{one}" is required' for one in fields if not _has(result, key, one))
            if not result.get("metrics"):
                yield f'"{at}.metrics" is required'
            for which, metric in enumerate(result.get("metrics") or []):
                for one in ("type", "value"):
                    if metric.get(one) is None:
                        yield f'"{at}.metrics[{which}].{one}" is required'


def _has(result: Mapping[str, Any], key: str, field: str) -> bool:
    return isinstance(result.get(key), dict) and isinstance(result[key].get(field), str)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def derived(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What the Hub says of a model beside its files: card, config, library, pipeline, tags."""
    card = _card(files)
    config = _json(files, "config.json")
    adapter = _json(files, "adapter_config.json")
    architectures = config.get("architectures") or []
    inferred = next((tag for name in architectures for end, tag in HEADS.items() if name.endswith(end)), None)
    library = card.get("library_name") or ("peft" if adapter else "transformers" if config.get("model_type") else None)
    pipeline = card.get("pipeline_tag") or inferred
    bases = [str(one) for one in _listed(card.get("base_model", []))]
    relation = card.get("base_model_relation") or ("adapter" if adapter else "finetune")
    tags = [
        *([library] if library else []),
        *(["safetensors"] if any(name.endswith(".safetensors") for name in files) else []),
        *([config["model_type"]] if config.get("model_type") else []),
        *([pipeline] if pipeline else []),
        *_listed(card.get("tags", [])),
        *_listed(card.get("language", [])),
        *(f"dataset:{one}" for one in _listed(card.get("datasets", []))),
        *(tag for base in bases for tag in (f"base_model:{base}", f"base_model:{relation}:{base}")),
        *(f"license:{one}" for one in _listed(card.get("license", []))),
    ]
    found = {
        "cardData": card or None,
        "config": {key: config[key] for key in ("architectures", "model_type") if key in config},
        "library_name": library,
        "pipeline_tag": pipeline,
        "tags": list(dict.fromkeys(str(tag) for tag in tags)),
        "model-index": card.get("model-index"),
        "safetensors": _parameters(files),
    }
    return {key: value for key, value in found.items() if value is not None}


def _card(files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        found = front_matter(files.get("README.md", b"").decode("utf-8", "replace"))
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        found = json.loads(files.get(name, b"{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _parameters(files: Mapping[str, bytes]) -> dict[str, Any] | None:
    """How many parameters of each type the weights have, from the header of `model.safetensors`."""
    content = files.get("model.safetensors", b"")
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except ValueError:
        return None
    counts: dict[str, int] = {}
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for length in tensor["shape"]:
                size *= length
            counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + size
    return {"parameters": counts, "total": sum(counts.values())}
