"""What the cache says of its costs, before anything is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from hf_ft.feature_cache.examples import EncodedSplit
from hf_ft.feature_cache.policy import forecast
from hf_ft.models import Layout


def split(lengths: list[int]) -> EncodedSplit:
    """An encoded split of texts with so many tokens."""
    return EncodedSplit.of(Dataset.from_dict({"input_ids": [list(range(n)) for n in lengths]}))


@pytest.mark.parametrize(("missing", "saved"), [([0, 1, 2], 0.1 * (3 * 4 - 3)), ([1], 0.1 * (3 * 4 - 1)), ([], 1.2)])
def test_forecast_counts_what_is_missing(tmp_path: Path, missing: list[int], saved: float) -> None:
    """Missing examples take space and one pass; every other read of an example is saved."""
    part, layout = split([2, 3, 4]), Layout("float32", (8,), ragged=True)
    rows = [np.array(missing, dtype=np.int64)]
    found = forecast("after block 1", tmp_path / "key", [layout], [part], rows, [4.0], 0.1)
    assert (found.examples, found.computed, found.passes) == (3, len(missing), 4.0)
    assert found.seconds == pytest.approx(saved)
    tokens = sum([2, 3, 4][row] for row in missing)
    assert found.bytes >= 4 * 8 * tokens
    assert (found.bytes > 0) == bool(missing)
    assert ("skipped" in found.line()) == (not missing)
