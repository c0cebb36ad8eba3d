"""How many images run at once where nothing trains."""

from __future__ import annotations

PIXELS = 16 * 224 * 224
"""Of a batch on a CPU: larger ones are no faster there, and take memory (both measured, docs/performance.md)."""
FEWEST, MOST = 4, 64


def images_at_once(pixels: int) -> int:
    """Return how many images of so many pixels run through a model at once on a CPU."""
    return min(max(PIXELS // pixels, FEWEST), MOST)
