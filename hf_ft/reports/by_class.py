"""Unequal classes in reports: the scores of each class, what was done about rare ones, and their threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hf_ft.records import ClassesRecord, ClassScoreRecord, RunRecord
from hf_ft.reports.tables import shortened, text_table, title

Table = tuple[list[str], list[list[str]]]

SHOWN = 20
"""Most classes in a table; of more, those with the lowest F1."""
WIDTH = 30
"""Longest name of a class in a table for terminals, in characters."""


class Threshold(Protocol):
    """A threshold for the rarer of two classes."""

    @property
    def label(self) -> str:
        """The class."""

    @property
    def value(self) -> float:
        """The probability from which it is predicted."""

    @property
    def fitted(self) -> bool:
        """Whether the value was fitted on validation."""


def class_rows(scores: Sequence[ClassScoreRecord]) -> Table:
    """Return header and rows of the scores of each class: all of them, or the `SHOWN` with the lowest F1."""
    shown = scores if len(scores) <= SHOWN else sorted(scores, key=lambda one: one.f1)[:SHOWN]
    ranked = any(one.average_precision is not None for one in scores)
    header = ["class", "precision", "recall", "F1", *(["avg. precision"] if ranked else []), "n"]
    rows = []
    for one in shown:
        average = "" if one.average_precision is None else f"{one.average_precision:.3f}"
        cells = [f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", *([average] if ranked else [])]
        rows.append([one.label, *cells, f"{one.support:,}"])
    return header, rows


def class_heading(scores: Sequence[ClassScoreRecord], split: str = "") -> str:
    """Return the heading of a table of classes: which of them it shows."""
    where = f" on {split}" if split else ""
    if len(scores) <= SHOWN:
        return f"Classes{where}"
    return f"The {SHOWN} of {len(scores):,} classes with the lowest F1{where}"


def class_table(scores: Sequence[ClassScoreRecord], split: str = "") -> str:
    """Return the scores of each class for the terminal, at most `SHOWN` of them."""
    header, rows = class_rows(scores)
    rows = [[shortened(row[0], WIDTH), *row[1:]] for row in rows]
    return f"{class_heading(scores, split)}:\n" + text_table(header, rows)


def classes_lines(classes: ClassesRecord | None) -> list[str]:
    """Return one line each on unequal classes, the metric that they ask for, and what corrects for them."""
    if classes is None:
        return []
    lines = []
    if classes.macro_f1_by_default:
        share = classes.rarest_count / classes.total
        lines.append(
            f"unequal: '{shortened(classes.rarest, WIDTH)}' has {classes.rarest_count:,} of {classes.total:,} training "
            f"examples ({share:.1%}), so macro F1 is the default metric"
        )
    if classes.weights:
        named = [f"{shortened(name, WIDTH)} {weight:.3g}" for name, weight in classes.weights.items()]
        more = f" and {len(named) - 6} more" if len(named) > 6 else ""
        lines.append(f"weights {classes.rule}: {', '.join(named[:6])}{more}")
    if classes.sampler != "none":
        lines.append(f"sampler {classes.sampler}: every class is drawn equally often")
    if classes.loss not in ("", "cross_entropy"):
        lines.append(f"loss {classes.loss}")
    return lines


def threshold_note(found: Threshold) -> str:
    """Return what a threshold for the rarer of two classes does, and that a plain `pipeline` does not apply it."""
    origin = "fitted on validation" if found.fitted else "set by --threshold"
    return (
        f"'{found.label}' is predicted from a probability of {found.value:.3f} ({origin}); a plain `pipeline` answers "
        "with the more probable class."
    )


def threshold_lines(record: RunRecord) -> list[str]:
    """Return one sentence on the threshold, and one for each split with the scores by it and without it."""
    found = record.rare_class
    if found is None:
        return []
    lines = [threshold_note(found)]
    for split, scores in found.by_class.items():
        (by_threshold,) = (one for one in scores if one.label == found.label)
        (plain,) = (one for one in record.by_class[split] if one.label == found.label)
        macro, before = found.metrics[split]["f1_macro"].value, record.metrics[split]["f1_macro"].value
        lines.append(
            f"On {split} with the threshold: F1 of '{found.label}' {by_threshold.f1:.3f} (without {plain.f1:.3f}), "
            f"recall {by_threshold.recall:.3f} ({plain.recall:.3f}), precision {by_threshold.precision:.3f} "
            f"({plain.precision:.3f}), {title('f1_macro')} {macro:.3f} ({before:.3f})."
        )
    return lines


def threshold_usage(record: RunRecord) -> str:
    """Return lines of Python that apply the threshold to the answers of a plain `pipeline`; empty without one."""
    found = record.rare_class
    if found is None:
        return ""
    (other,) = (_quoted(label) for label in record.data.labels if label != found.label)
    label = _quoted(found.label)
    call = record.usage.removesuffix(")") + ", top_k=2)"
    return (
        f"\n# {label} from a probability of {found.value:.3f} on, as scored below:\n"
        f'chance = {{one["label"]: one["score"] for one in {call}}}[{label}]\n'
        f"label = {label} if chance >= {found.value:.6g} else {other}"
    )


def _quoted(label: str) -> str:
    """Return a label as Python writes it, without characters that could end a block of code in Markdown."""
    return ascii(label).replace("`", "\\x60")


def undefined_note(split: str, reasons: Mapping[str, Any]) -> str | None:
    """Return which metrics the labels of a split do not define; None if they define all."""
    by_reason: dict[str, list[str]] = {}
    for metric, reason in reasons.items():
        by_reason.setdefault(reason, []).append(title(metric))
    parts = [f"{', '.join(names)} ({reason})" for reason, names in by_reason.items()]
    return f"Not defined on {split}: {'; '.join(parts)}." if parts else None
