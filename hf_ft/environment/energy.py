"""The energy of training, as codecarbon reports it; nothing is measured where that package is not installed.

codecarbon would ask a web service where the machine is, to know how much CO2 a kilowatt-hour makes there. Training
asks no one: without `CODECARBON_COUNTRY_ISO_CODE`, or a country in codecarbon's own file of settings, only the energy
is reported.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hf_ft.environment.packages import missing_package

VARIABLE = "HF_FT_ENERGY"
"""Environment variable: `off` measures nothing unless a run asks for it, although codecarbon is installed."""
NOWHERE = "USA"
"""A country, because codecarbon wants one; its emissions are not reported."""


@dataclass
class Energy:
    """The energy of training as codecarbon reports it: kilowatt-hours, of the processor, memory and GPUs.

    `processor_by` is how the power of the processor was found, in codecarbon's words. `grams` of CO2 equivalents are
    None where the user has not said in which country the machine is (`CODECARBON_COUNTRY_ISO_CODE`).
    """

    kwh: float
    seconds: float
    parts: dict[str, float]
    processor: str
    processor_by: str
    country: str | None
    grams: float | None
    codecarbon: str


@dataclass
class Measured:
    """What a block used; None until it has ended, and where nothing measures it."""

    energy: Energy | None = None


@contextmanager
def energy_measured(setting: str = "auto") -> Iterator[Measured]:
    """Measure the energy of a block with codecarbon: `on`, `off`, or `auto` where it is installed; see `VARIABLE`."""
    found = Measured()
    wanted = setting == "on" or (setting == "auto" and os.environ.get(VARIABLE) != "off")
    tracker, country = (None, None) if not wanted or missing_package("codecarbon") else _tracker()
    if tracker is None:
        yield found
        return
    tracker.start()
    try:
        yield found
    finally:
        tracker.stop()
        found.energy = _energy(tracker, country)


def _tracker() -> tuple[Any, str | None]:
    """A tracker that connects to nothing and writes no file, and the country that the user has set."""
    from codecarbon import OfflineEmissionsTracker
    from codecarbon.core.config import get_hierarchical_config

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it speaks before it has read its log_level
    country = get_hierarchical_config().get("country_iso_code")
    tracker = OfflineEmissionsTracker(
        country_iso_code=country or NOWHERE, output_methods=[], log_level="critical", allow_multiple_runs=True
    )
    return tracker, country


def _energy(tracker: Any, country: str | None) -> Energy | None:
    data = getattr(tracker, "final_emissions_data", None)
    if data is None or not math.isfinite(data.energy_consumed):
        return None
    parts = {"processor": data.cpu_energy, "memory": data.ram_energy, "GPU": data.gpu_energy}
    return Energy(
        kwh=data.energy_consumed,
        seconds=data.duration,
        parts={name: value for name, value in parts.items() if value},
        processor=data.cpu_model or "",
        processor_by=_means(tracker),
        country=country,
        grams=data.emissions * 1000 if country else None,
        codecarbon=data.codecarbon_version,
    )


MEANS = {
    "intel_rapl": "its energy counters (RAPL)",
    "cpu_load": "its load and nominal power, an estimate",
    "constant": "its nominal power, an estimate",
}
"""How codecarbon came to the power of the processor -> in words; other means, of other systems, measure it."""


def _means(tracker: Any) -> str:
    modes = [getattr(one, "_mode", None) for one in getattr(tracker, "_hardware", [])]  # its public name is a log line
    return next((MEANS.get(mode, str(mode)) for mode in modes if mode), "")
