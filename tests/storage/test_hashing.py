"""Digests: what they depend on, and what they do not."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hf_ft.storage import files_digest, json_digest, sha256, text_digest


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    """Any other tool gets the same."""
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == text_digest("abc") == hashlib.sha256(b"abc").hexdigest()


def test_settings_have_one_digest_in_any_order() -> None:
    """The order of keys says nothing; a value does."""
    assert json_digest({"a": 1, "b": [2, 3]}) == json_digest({"b": [2, 3], "a": 1})
    assert json_digest({"a": 1}) != json_digest({"a": 2})
    assert json_digest({"a": Path("x")}) == json_digest({"a": "x"})


def test_several_files_have_one_digest(tmp_path: Path) -> None:
    """It depends on contents and order, and on names only where that is asked for."""
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text(path.name)
    moved = [path.rename(tmp_path / f"new-{path.name}") for path in paths]
    plain, named = files_digest(moved), files_digest(moved, names=True)
    back = [path.rename(tmp_path / path.name.removeprefix("new-")) for path in moved]
    assert files_digest(back) == plain != files_digest(back[::-1])
    assert files_digest(back, names=True) != named
