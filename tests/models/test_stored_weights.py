"""Files of weights: pickles are recognised, and a damaged download is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hf_ft.errors import UserError
from hf_ft.models.stored_weights import NO_CONVERSION, check_weights, pickled_weights, without_conversion
from hf_ft.storage import bytes_digest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = b"weights"


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the Hub's client writes for one large and one small file: links to blobs, called by their hashes."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--me--base"
    (folder / "blobs").mkdir(parents=True)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    for name, blob in {"model.safetensors": bytes_digest(CONTENT), "small.safetensors": "1" * 40}.items():
        (folder / "blobs" / blob).write_bytes(CONTENT)
        (folder / "snapshots" / COMMIT / name).symlink_to(folder / "blobs" / blob)
    return folder / "snapshots" / COMMIT


def test_a_download_is_what_the_hub_has(snapshot: Path) -> None:
    """By its hash; one wrong byte is found, and the remedy names the repository."""
    check_weights("me/base", COMMIT)
    (snapshot / "model.safetensors").resolve().write_bytes(CONTENT[:-1] + b"S")
    with pytest.raises(UserError, match=r"model\.safetensors of 'me/base' is damaged.*hf cache rm model/me/base"):
        check_weights("me/base", COMMIT)


def test_a_file_that_repositories_share_is_known_by_its_own_hash(snapshot: Path, tmp_path: Path) -> None:
    """Files in Xet storage are kept once, under the hash of Xet, which has as many digits."""
    blob = (snapshot / "model.safetensors").resolve()
    shared = tmp_path / "blobs" / ("a" * 64)
    shared.parent.mkdir()
    blob.rename(shared)
    blob.symlink_to(shared)
    check_weights("me/base", COMMIT)
    shared.write_bytes(b"other")
    with pytest.raises(UserError, match="is damaged"):
        check_weights("me/base", COMMIT)


def test_local_folders_are_not_compared(snapshot: Path) -> None:
    (snapshot / "model.safetensors").resolve().write_bytes(b"other")
    check_weights(str(snapshot), COMMIT)
    check_weights("me/base", None)


def test_pickles_count_only_without_safetensors(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model-00001-of-00002.bin").touch()
    (tmp_path / "training_args.bin").touch()
    assert pickled_weights(str(tmp_path), None) == ["pytorch_model-00001-of-00002.bin"]
    (tmp_path / "model.safetensors").touch()
    assert pickled_weights(str(tmp_path), None) == []


def test_conversion_is_off_for_the_time_of_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NO_CONVERSION, raising=False)
    with without_conversion():
        assert os.environ[NO_CONVERSION] == "1"
    assert NO_CONVERSION not in os.environ
    monkeypatch.setenv(NO_CONVERSION, "0")
    with without_conversion():
        assert os.environ[NO_CONVERSION] == "1"
    assert os.environ[NO_CONVERSION] == "0"
