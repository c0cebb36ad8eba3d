"""The command line that asks for a run, as it may be published: explicit options only, and no local path or token."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_ft.settings import Config

FIRST = ("task", "model", "model_revision", "dataset", "dataset_revision", "method", "plan")
SOURCES = ("model_revision", "dataset_revision", "trust_remote_code", "allow_pickle")
"""Explicit options that say where model and data come from; a resumed run may have others."""


def public_command(config: Config) -> str:
    """Return the `hf-ft train` command that asks for the same run.

    Options that do not change the result, such as trackers and their tokens, are left out (those that `--resume` may
    change). Local paths are shortened to their last part.
    """
    own = {name: value for name, value in asdict(config).items() if name in config.explicit}
    named = {name: own[name] for name in own if name in config.must_match or name in SOURCES}
    # Other options are fields of `TrainingArguments`, which `must_match` has as the user wrote them.
    named |= {name: config.must_match[name] for name in config.explicit - own.keys() if name in config.must_match}
    named |= {"task": config.task, "model": config.model, "dataset": config.dataset}
    named |= {"plan": "plan.yaml"} if "plan" in config.explicit else {"method": str(config.method)}
    order = sorted(named, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    words = [word for name in order for word in (f"--{name}", _spelled(named[name]))]
    return " ".join(["hf-ft train", *map(shlex.quote, words), "--output_dir OUT"])


def _spelled(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ",".join(value)
    if isinstance(value, dict | list):
        return json.dumps(value)
    return public_name(str(value))


def public_name(name: str) -> str:
    """Return a Hub id as it is, a local path as its last part."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() else name
