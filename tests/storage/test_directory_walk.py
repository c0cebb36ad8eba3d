"""Folders with symbolic links, broken links and names that are no UTF-8: read once, told, or refused with one line."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from hf_ft.cli.app import main
from hf_ft.data.load import load_splits
from hf_ft.data.splits import Splits
from hf_ft.errors import UserError
from hf_ft.settings.schema import Config
from hf_ft.storage.directory_walk import files_below


def pictures(root: Path, each: int = 8) -> Path:
    """Two classes of different pictures."""
    for number, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (6, 6), (number, i, 7)).save(root / name / f"{i}.png")
    return root


def load(folder: Path, task: str = "image_classification", **settings: str) -> Splits:
    return load_splits(Config(task=task, dataset=str(folder), explicit=frozenset(settings), **settings))


def sizes(splits: Splits) -> Counter[str]:
    found = [*splits.train["labels"], *splits.validation["labels"]]
    return Counter(splits.labels[number] for number in found)


@pytest.mark.parametrize("where", ["the folder", "a class", "above"])
def test_a_link_to_its_parent_adds_nothing(where: str, tmp_path: Path) -> None:
    """Sixteen images stay sixteen, each in its own class, and the link is named."""
    root = pictures(tmp_path / "outer" / "data")
    (tmp_path / "outer" / "other").mkdir()
    Image.new("RGB", (6, 6), (9, 9, 9)).save(tmp_path / "outer" / "other" / "stray.png")
    link, target = {
        "the folder": (root / "again", root),
        "a class": (root / "ant" / "loop", root),
        "above": (root / "up", root.parent),
    }[where]
    link.symlink_to(target)
    splits = load(root)
    assert sizes(splits) == {"ant": 8, "bee": 8}
    assert any("Symbolic links skipped" in note and link.name in note for note in splits.notes)
    assert splits.duplicates.overlaps == ()


def test_links_to_other_folders_are_followed_once(tmp_path: Path) -> None:
    """A class that lies elsewhere is read under the name of its link; a second link to it is skipped and named."""
    store = pictures(tmp_path / "store")
    root = tmp_path / "data"
    root.mkdir()
    for name in ("ant", "bee"):
        (root / name).symlink_to(store / name)
    splits = load(root)
    assert sizes(splits) == {"ant": 8, "bee": 8}
    assert not any("Symbolic" in note for note in splits.notes)
    (root / "wasp").symlink_to(store / "bee")
    splits = load(root)
    assert sizes(splits) == {"ant": 8, "bee": 8}
    assert any("wasp" in note for note in splits.notes)


def test_real_folders_go_before_links(tmp_path: Path) -> None:
    """A link that sorts before its target does not take its name; a hidden target has no other name."""
    root = pictures(tmp_path / "data")
    (root / "aaa").symlink_to(root / "bee")
    pictures(root / ".store")
    (root / "cat").symlink_to(root / ".store" / "ant")
    found = files_below(root)
    assert found.repeated == ["aaa"]
    assert Counter(name.split("/")[0] for name in found.files) == {"ant": 8, "bee": 8, "cat": 8}


def test_tables_behind_a_link_to_the_parent_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20)))
    (tmp_path / "train").symlink_to(tmp_path)
    splits = load(tmp_path, "text_classification")
    assert len(splits.train) + len(splits.validation) == 20
    assert any("Symbolic links skipped" in note for note in splits.notes)


def test_broken_links_are_named(tmp_path: Path) -> None:
    """In the place of an image it is a bad example, elsewhere a note."""
    root = pictures(tmp_path / "data")
    (root / "elsewhere").symlink_to(tmp_path / "gone")
    assert any("target does not exist: elsewhere" in note for note in load(root).notes)
    (root / "ant" / "lost.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"1 of \d+ images cannot be read: data/ant/lost.png \(a broken link\)"):
        load(root)
    splits = load(root, bad_examples="skip")
    assert sizes(splits) == {"ant": 8, "bee": 8}
    assert any("lost.png" in note for note in splits.notes)


@pytest.mark.skipif(sys.platform == "darwin", reason="file systems that refuse such names")
@pytest.mark.parametrize("kind", ["image", "class", "folder"])
def test_names_that_are_no_utf8_are_refused(kind: str, tmp_path: Path) -> None:
    """One line that shows the bytes; neither Arrow nor a configuration can hold them. A stray file does no harm."""
    root = pictures(tmp_path / "data")
    (root / "ant" / os.fsdecode(b"not\xe9s.txt")).write_text("")
    assert sizes(load(root)) == {"ant": 8, "bee": 8}
    bad = os.fsdecode(b"caf\xe9")
    if kind == "image":
        (root / "ant" / "0.png").rename(root / "ant" / f"{bad}.png")
    elif kind == "class":
        (root / "ant").rename(root / bad)
    else:
        root = root.rename(tmp_path / bad)
    with pytest.raises(UserError, match=r"not valid UTF-8: .*caf\\xe9.*Rename") as error:
        load(root)
    str(error.value).encode()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, image_model: str, image_data: str) -> str:
    out = str(tmp_path_factory.mktemp("trained") / "out")
    settings = ["--task", "image_classification", "--model", image_model, "--dataset", image_data, "--method", "head"]
    assert main(["train", *settings, "--load_back_proof", "false", "--output_dir", out]) == 0
    return out


def test_predict_reads_each_folder_once(trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "data")
    (root / "ant" / "loop").symlink_to(root)
    capsys.readouterr()
    assert main(["predict", trained, str(root)]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 1 + 16
    assert "ant/loop" in told.err
    (root / "bee" / "lost.png").symlink_to(tmp_path / "gone.png")
    for given in (root, root / "bee" / "lost.png"):
        assert main(["predict", trained, str(given)]) == 2
        assert "lost.png (a broken link)" in capsys.readouterr().err
    (root / "bee" / "lost.png").unlink()
    (root / "bee" / "1.png").rename(root / "bee" / os.fsdecode(b"\xff.png"))
    assert main(["predict", trained, str(root)]) == 2
    assert "not valid UTF-8" in capsys.readouterr().err
