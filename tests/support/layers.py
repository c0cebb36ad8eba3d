"""Complete settings, on which a test puts layers of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_ft.settings.merge import Settings, build
from hf_ft.settings.parse import command_line
from hf_ft.settings.schema import config_fields

TASK = "text_classification"


def settings(tmp_path: Path, *layers: tuple[str, Mapping[str, Any]], **own: Any) -> Settings:
    """Build settings from a complete first layer and whatever layers a test puts on it."""
    base = {"task": TASK, "model": "org/model", "dataset": "org/data", "output_dir": str(tmp_path / "out")}
    return build(("the recipe", base | own), *layers)


def value_of(found: Settings, name: str) -> Any:
    """A setting by name, wherever it is kept."""
    return getattr(found.config, name) if name in config_fields() else found.training.get(name)


def yaml_layer(tmp_path: Path, text: str) -> list[tuple[str, Any]]:
    """The layers that `--config FILE` makes of a YAML file with this text."""
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return command_line(["--config", str(path)])
