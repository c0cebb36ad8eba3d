"""Tables of classes: every class of a few, the worst of many, and names of any length."""

from __future__ import annotations

from hf_ft.metrics.per_class import class_scores
from hf_ft.records import ClassesRecord, ClassScoreRecord
from hf_ft.reports.by_class import SHOWN, class_heading, class_rows, class_table, classes_lines, undefined_note


def made_up(count: int) -> list[ClassScoreRecord]:
    """Classes of which later ones have a lower F1."""
    return [
        ClassScoreRecord(f"{i} {'x' * 60}", 0.5, 0.25, 1 - i / count, 1000 + i, 0.75 if i else None)
        for i in range(count)
    ]


def test_a_few_classes_are_shown_in_their_order() -> None:
    """A class without examples has no average precision."""
    header, rows = class_rows(made_up(3))
    assert header == ["class", "precision", "recall", "F1", "avg. precision", "n"]
    assert [row[0][:2] for row in rows] == ["0 ", "1 ", "2 "]
    assert rows[0][1:] == ["0.500", "0.250", "1.000", "", "1,000"]
    assert class_heading(made_up(3), "test") == "Classes on test"


def test_of_many_classes_the_worst_are_shown() -> None:
    """As many as fit a screen, the lowest F1 first, which the heading says; the table fits 80 columns."""
    _, rows = class_rows(made_up(SHOWN + 5))
    assert [int(row[0].split()[0]) for row in rows] == list(range(SHOWN + 4, 4, -1))
    assert class_heading(made_up(SHOWN + 5)) == f"The {SHOWN} of {SHOWN + 5} classes with the lowest F1"
    table = class_table(made_up(SHOWN + 5), "test")
    assert max(map(len, table.splitlines())) <= 80
    assert len(table.splitlines()) == SHOWN + 3


def test_entities_have_no_average_precision() -> None:
    """There the column is left out."""
    header, rows = class_rows([ClassScoreRecord("PER", 1.0, 0.5, 0.667, 12, None)])
    assert header == ["class", "precision", "recall", "F1", "n"]
    assert rows == [["PER", "1.000", "0.500", "0.667", "12"]]


def test_scores_of_one_label_are_not_those_of_two_classes() -> None:
    """scikit-learn reads a single column of labels as a problem of two classes."""
    (found,) = class_scores([[1], [0], [0], [1]], [[1], [1], [0], [0]], [[0.9], [0.8], [0.1], [0.2]], ["spam"])
    assert (found.precision, found.recall, found.f1, found.support) == (0.5, 0.5, 0.5, 2)
    assert found.average_precision is not None


def test_lines_on_unequal_classes() -> None:
    """Nothing is said where nothing is done."""
    plain = ClassesRecord("a", 40, "b", 60, 100, False, "cross_entropy", "none", {}, "none")
    assert classes_lines(plain) == classes_lines(None) == []
    rare = ClassesRecord("a", 5, "b", 95, 100, True, "focal", "sqrt", {"a": 2.29, "b": 0.53}, "balanced")
    lines = classes_lines(rare)
    assert len(lines) == 4
    assert "'a' has 5 of 100 training examples (5.0%)" in lines[0]
    assert undefined_note("test", {}) is None
    note = undefined_note("test", {"mcc": "why", "roc_auc": "why"})
    assert note == "Not defined on test: Matthews correlation, ROC-AUC, macro (why)."
