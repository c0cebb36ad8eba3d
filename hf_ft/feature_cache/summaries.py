"""Summaries: small tensors of some examples that a pass through the frozen layers yields besides the features.

Layer probes read the mean of each block's output for a sample of the examples. Taken in the pass that computes the
features they cost next to nothing; by themselves they would cost another pass. They are cached under a key of their
own, so a run that finds its features cached finds them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_ft.feature_cache.feature_files import FeatureStore, Unusable
from hf_ft.feature_cache.watching import Batch, Summary, Watch
from hf_ft.models import CannotSplit, Layout


class SummaryStore:
    """The cached summaries that go with features of one key."""

    def __init__(self, root: Path, feature_key: Mapping[str, Any], name: str) -> None:
        # The widths of features and what the head reads play no part.
        parts = {part: value for part, value in feature_key.items() if part not in ("layouts", "captured", "split")}
        described = {"describe": f"{feature_key['model']}, {name}"}
        self._store = FeatureStore(root, {**parts, **described})

    def missing(self, fingerprints: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the distinct fingerprints whose examples are missing."""
        try:
            return fingerprints[self._store.missing(fingerprints)]
        except Unusable:
            return fingerprints[:0]

    def read(self, fingerprints: NDArray[np.uint8]) -> list[torch.Tensor] | None:
        """Return the tensors of these examples, in their order; None if some are missing."""
        with suppress(Unusable):
            if not len(self._store.missing(fingerprints)):
                return self._store.read(fingerprints).take(range(len(fingerprints)))
        return None

    def write(self, fingerprints: NDArray[np.uint8], tensors: Sequence[torch.Tensor]) -> None:
        """Cache the tensors of examples, as far as they are missing and there is room."""
        with suppress(Unusable):
            missing = self._store.missing(fingerprints)
            if len(missing):
                layouts = [Layout("float32", tuple(tensor.shape[1:])) for tensor in tensors]
                with self._store.build(fingerprints[missing], layouts) as writer:
                    writer.put(np.arange(len(missing)), [tensor[missing] for tensor in tensors])


class Collector:
    """Collects the summaries of the sample of a split during the pass that computes its features.

    Args:
        store: Where they are cached; those that are there already are not collected.
        rows: The positions in the split that the pass reads.
        fingerprints: Those of the whole split.
    """

    def __init__(
        self,
        summary: Summary | None,
        store: SummaryStore | None,
        rows: NDArray[np.int64],
        fingerprints: NDArray[np.uint8],
    ) -> None:
        self._summary, self._store, self._keys = summary, store, [row.tobytes() for row in fingerprints]
        self._found: dict[bytes, list[torch.Tensor]] = {}
        sample = fingerprints[summary.sample(len(fingerprints))] if summary else fingerprints[:0]
        self._sample = store.missing(sample) if store else sample
        self._wanted = {row.tobytes() for row in self._sample}
        # Of equal examples one is passed; what was passed in another run is not passed again.
        if not self._wanted or not self._wanted <= {self._keys[row] for row in rows.tolist()}:
            self._summary = None

    @contextmanager
    def watching(self) -> Iterator[Callable[[NDArray[np.int64], Batch], AbstractContextManager[None]]]:
        """Within the block, wrap each pass in what the function returns for the positions of its examples."""
        if self._summary is None:
            yield lambda places, batch: nullcontext()
            return
        with self._summary.watch() as watch:
            yield lambda places, batch: self._taking(watch, places, batch)

    @contextmanager
    def _taking(self, watch: Watch, places: NDArray[np.int64], batch: Batch) -> Iterator[None]:
        keys = [self._keys[place] for place in places.tolist()]
        inside = [i for i, key in enumerate(keys) if key in self._wanted]
        if not inside or self._summary is None:
            yield
            return
        watch.begin(batch)
        yield
        try:
            tensors = watch.states()
        except CannotSplit:
            self._summary = None
            return
        for i in inside:
            self._found[keys[i]] = [tensor[i] for tensor in tensors]

    def keep(self) -> None:
        """Cache what was collected, if it is complete."""
        if self._store is None or self._summary is None:
            return
        columns = zip(*(self._found[row.tobytes()] for row in self._sample), strict=True)
        self._store.write(self._sample, [torch.stack(list(column)) for column in columns])
