"""A cache that the disk refuses stops no training: layers run live, and a note says why."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_ft import UserError, finetune
from hf_ft.feature_cache import images as image_cache


def train(model: str, data: str, out: Path, **settings: Any) -> dict[str, Any]:
    """The record of a short run that would be cached."""
    usual = {"task": "text_classification", "method": "last_n:1", "num_train_epochs": 2, "load_back_proof": False}
    return finetune(**{**usual, "model": model, "dataset": data, "output_dir": str(out), **settings}).record


@pytest.fixture
def not_a_folder(tmp_path: Path) -> str:
    """A folder that cannot be made, since its parent is a file."""
    (tmp_path / "file").write_text("mine")
    return str(tmp_path / "file/cache")


def test_a_folder_that_cannot_be_made(
    text_model: str, text_data: str, tmp_path: Path, not_a_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage runs live and says so, in the output and in the record, which names no path; so does a head's."""
    record = train(text_model, text_data, tmp_path / "out", cache_dir=not_a_folder)
    (stage,) = record["stages"]
    assert stage["cache"] is None
    assert "Not a directory" in stage["uncached"]
    assert str(tmp_path) not in json.dumps(record["stages"])
    assert stage["uncached"] in capsys.readouterr().out
    head = train(text_model, text_data, tmp_path / "head", method="head", num_train_epochs=None, cache_dir=not_a_folder)
    assert head["stages"][0]["solver"] is None
    assert head["stages"][0]["steps"] > 0
    assert "solver   not used in stage 'head'" in capsys.readouterr().out
    assert (tmp_path / "file").read_text() == "mine"


def test_cache_on_is_refused_in_one_line(text_model: str, text_data: str, tmp_path: Path, not_a_folder: str) -> None:
    """Who asked for the cache is told why it cannot be, with the remedies."""
    with pytest.raises(
        UserError, match=r"^The feature cache cannot be written .*Not a directory.*--cache_dir"
    ) as error:
        train(text_model, text_data, tmp_path / "out", cache="on", cache_dir=not_a_folder)
    assert "\n" not in str(error.value)


def test_images_are_decoded_in_every_epoch(
    image_model: str,
    image_data: str,
    tmp_path: Path,
    not_a_folder: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same for decoded images, which are worth keeping here however little time it saves."""
    monkeypatch.setattr(image_cache, "LEAST", -1e9)
    settings = {"task": "image_classification", "method": "full", "augment": "none"}
    record = train(image_model, image_data, tmp_path / "out", cache_dir=not_a_folder, **settings)
    assert record["stages"][0]["images"] is None
    assert "decoded in every epoch: of the cache, its folder cannot be written" in capsys.readouterr().out


ON_OWN_DISKS = """
import json, sys
from pathlib import Path
import hf_ft.feature_cache.build as build
from tests.feature_cache.test_unusable_cache import train
model, data, out, disk = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
compute = build._compute

def filled(*args):
    with (disk / "small/filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    compute(*args)

found = {}
found["read-only"] = train(model, data, out / "one", cache_dir=str(disk / "fixed"))
build._compute = filled
found["fills up"] = train(model, data, out / "two", cache_dir=str(disk / "small"))
build._compute = compute
found["full"] = train(model, data, out / "three", cache_dir=str(disk / "small"))
for name, record in found.items():
    print("FOUND", json.dumps([name, record["stages"][0]["cache"], record["stages"][0]["uncached"]]))
"""


def test_disks_that_are_full_or_read_only(text_model: str, text_data: str, tmp_path: Path) -> None:
    """Real file systems: one that is mounted read-only, one that somebody fills while features are written."""
    (tmp_path / "fixed").mkdir()
    (tmp_path / "small").mkdir()
    script = (
        'mount -t tmpfs -o ro,size=4m none "$1/fixed" && mount -t tmpfs -o size=4m none "$1/small" && '
        'exec "$2" -c "$3" "$4" "$5" "$1/out" "$1"'
    )
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a file system of their own")
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n{ON_OWN_DISKS}"
    command += [sys.executable, code, text_model, text_data]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line.removeprefix("FOUND ")) for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    live = {name: reason for name, cache, reason in found if cache is None}
    assert "Read-only file system" in live["read-only"]
    assert "No space left on device" in live["fills up"]
    assert "has 0 bytes free" in live["full"]
