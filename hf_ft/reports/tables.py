"""Tables and text for terminals and Markdown pages: alignment, wrapping, and the escaping of what comes from data."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterable, Sequence

TITLES = {
    "accuracy": "accuracy",
    "f1_macro": "F1, macro",
    "f1_micro": "F1, micro",
    "f1_weighted": "F1, weighted",
    "precision_macro": "precision, macro",
    "precision_micro": "precision, micro",
    "recall_macro": "recall, macro",
    "recall_micro": "recall, micro",
    "subset_accuracy": "all labels right",
    "map": "mean average precision",
    "mcc": "Matthews correlation",
    "cohen_kappa": "Cohen's kappa",
    "roc_auc": "ROC-AUC, macro",
    "average_precision": "average precision, macro",
    "top5_accuracy": "accuracy of the top 5",
    "log_loss": "log loss (lower is better)",
    "ece": "calibration error (lower is better)",
    "mse": "mean squared error (lower is better)",
    "mae": "mean absolute error (lower is better)",
    "r2": "R2",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "f1": "F1 of entities",
    "precision": "precision of entities",
    "recall": "recall of entities",
}


LOWER_IS_BETTER = " (lower is better)"


def title(metric: str) -> str:
    """Return the name of a metric in tables and figures; `f1_of_TYPE` is the F1 of one type of entity."""
    return TITLES.get(metric, metric.replace("f1_of_", "F1 of ", 1))


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for the terminal: the first column aligned to the left, the others to the right."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [
            str(cell).ljust(width) if not i else str(cell).rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def wrapped(text: str, indent: str = "") -> list[str]:
    """Return lines of at most 79 characters; longer words, such as paths, are not broken."""
    return textwrap.wrap(text, 79, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Return a table in Markdown, its cells escaped; the first columns, `texts` of them, are aligned to the left."""
    lines = [[escaped(cell).replace("|", "\\|") for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * texts + ["---:"] * (len(header) - texts))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def wrapped_command(command: str) -> str:
    """Return a command line in lines of at most 79 characters where its words allow, for a block of code."""
    words = [shlex.quote(" ".join(UNSEEN.sub(" ", word).split())) for word in shlex.split(command)]
    parts: list[str] = []
    for word in words:  # an option stays with its value
        parts[-1:] = [word] if not parts else [parts[-1], word] if word.startswith("--") else [f"{parts[-1]} {word}"]
    lines = parts[:1]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) > 76:
            lines.append(f"    {part}")
        else:
            lines[-1] += f" {part}"
    return " \\\n".join(lines)


CODE = re.compile(r"(`[^`]+`)")
MARKS = re.compile(
    r"[\\<*]|&(?=#?\w+;)|`|(?<=\])(?=\()|(?<!\w)_|_(?!\w)|^(?:[#>]|[+-](?=\s)|[=-]+$|~{3}|\d+(?=[.)]\s))"
)
"""Characters with a meaning in Markdown or HTML, within a text or at its start."""
UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+")
"""Control characters, line ends, and marks that change the direction of writing."""


def escaped(text: str) -> str:
    """Return text for a Markdown page that reads as it is: labels and names come from the data and may hold anything.

    The result is one line; nothing in it makes a heading, a link or HTML. Code between backticks stays code.
    """
    parts = CODE.split(" ".join(UNSEEN.sub(" ", str(text)).split()))
    return "".join(part if CODE.fullmatch(part) else MARKS.sub(_escape, part) for part in parts)


def _escape(match: re.Match[str]) -> str:
    mark = match.group(0)
    return {"<": "&lt;", "&": "&amp;"}.get(mark, mark + "\\" if mark[:1].isdigit() else "\\" + mark)


def code(text: str) -> str:
    """Return text as Markdown code, on one line."""
    return "`" + " ".join(UNSEEN.sub(" ", text).replace("`", "'").split()) + "`"


def bullets(lines: Iterable[str]) -> str:
    """Return a Markdown list, its items escaped."""
    return "\n".join(f"- {escaped(line)}" for line in lines)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def shortened(text: str, width: int) -> str:
    """Return text of at most so many characters."""
    return text if len(text) <= width else text[: width - 3] + "..."


def short_score(value: float) -> str:
    """Return a score in few characters: errors may be in any unit."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
