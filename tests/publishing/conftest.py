"""A finished run to publish, trained once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hf_ft import finetune
from tests.hub import LocalHub
from tests.publishing.pushing import Pusher


@pytest.fixture(scope="session")
def lora_run(text_model: str, text_data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run of two steps, which leaves an adapter folder as well. Copy it before changing it."""
    out = tmp_path_factory.mktemp("runs") / "lora"
    finetune(
        task="text_classification",
        model=text_model,
        dataset=text_data,
        method="lora",
        output_dir=str(out),
        max_steps=2,
        load_back_proof=False,
    )
    return out


@pytest.fixture
def finished(lora_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(lora_run, tmp_path / "out"))


@pytest.fixture
def pusher(local_hub: LocalHub, finished: Path, tmp_path: Path) -> Pusher:
    """Alice, who may write, and the copy of a finished run."""
    home = tmp_path / "home"
    home.mkdir()
    return Pusher(local_hub, local_hub.token("alice"), finished, home, {})
