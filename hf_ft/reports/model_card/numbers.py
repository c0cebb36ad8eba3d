"""Numbers as the card writes them: about as many digits as mean something."""

from __future__ import annotations

from hf_ft.records import ScoreRecord


def figure(value: float) -> str:
    """Return a score with three decimals, or fewer digits where it is large or tiny: errors may be in any unit."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2g}"


def interval(score: ScoreRecord) -> str:
    """Return the 95 % interval of a score."""
    return f"{figure(score.low)} to {figure(score.high)}"


def percentage(part: float, whole: float) -> str:
    """Return a share in per cent, with two digits where one would be zero."""
    share = part / whole if whole else 0.0
    return f"{share:.2%}" if 0 < share < 0.0005 else f"{share:.1%}"
