"""One word for one thing: words that the project has given up do not come back in what people read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.structure import PACKAGE, tree_of

ROOT = PACKAGE.parent
RETIRED: Mapping[str, str] = {
    r"\barms?\b": "trial",
    r"\bbench\b": "experiment",
    r"\banatom(y|ies)\b": "depth groups",
    r"\bis no option\b": "is not supported",
    r"\bThere (is|are): ": "Choose from: ",
    r"\b(run|runs|ran|running) live\b": "run uncached",
    r"\bnot kept\b": "not cached, not stored",
    r"\bwhat (it|they|frozen layers) (give|gives|gave)\b": "cached features, outputs",
    r"\bwhat lies (below|above)\b": "lower part, upper part",
    r"\bwhat is frozen\b": "frozen layers",
    r"\bpart of train\b": "part of the training split",
    r"\b(told|telling|tell) apart\b": "distinguishable",
    r"\b(is|are) told\b": "is reported",
    r"\bexact (head|solution)\b": "solved head",
    r"\b(run|runs|ran) through what\b": "run through the frozen layers",
    r"\broot of the sum of squares\b": "combined in quadrature",
    r"\bbelieved\b": "verified",
    r"\bkept features\b": "cached features",
    r"\bdealt\b|\bdealing\b": "held out",
    r"\b(a|the) remedy\b": "the fix",
    r"\bwhoever gave\b|\bwho gave\b": "the user",
}
"""What is no longer said -> what is said instead (docs/design.md)."""


def texts() -> Iterator[tuple[str, int, str]]:
    """File, line and text of all messages, help texts, docstrings and pages; not the history in CHANGELOG.md."""
    sources = [
        *PACKAGE.rglob("*.py"),
        *ROOT.glob("recipes/*.py"),
        *ROOT.glob("benchmarks/*.py"),
        ROOT / "push_to_hub.py",
    ]
    for path in sources:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield str(path.relative_to(ROOT)), node.lineno, node.value
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), *PACKAGE.rglob("*.jinja")]
    for path in pages:
        if path.name != "CHANGELOG.md":
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                yield str(path.relative_to(ROOT)), number, line


@pytest.fixture(scope="module")
def found() -> list[tuple[str, int, str]]:
    """All texts, read once."""
    return list(texts())


def test_there_is_much_to_read(found: list[tuple[str, int, str]]) -> None:
    """Sources, recipes, benchmarks, pages and the template of the card are all among what is read."""
    assert len(found) > 2000
    folders = {Path(path).parts[0] for path, _, _ in found}
    assert {"hf_ft", "recipes", "benchmarks", "docs", "README.md", "CONTRIBUTING.md"} <= folders
    assert any(path.endswith(".jinja") for path, _, _ in found)


@pytest.mark.parametrize("retired", RETIRED, ids=RETIRED.values())
def test_retired_words_stay_away(found: list[tuple[str, int, str]], retired: str) -> None:
    """None of them stands in a message, a docstring or a page."""
    pattern = re.compile(retired, re.IGNORECASE)
    hits = [
        f"{path}:{line}: ...{text[max(0, m.start() - 30) : m.end() + 30]!r}"
        for path, line, text in found
        for m in pattern.finditer(text)
    ]
    assert hits == [], f"say: {RETIRED[retired]}"
