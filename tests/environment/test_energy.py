"""The energy of training, as codecarbon reports it: without the network, and with CO2 only for a known country."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from hf_ft.environment import energy
from hf_ft.environment.energy import energy_measured


@pytest.fixture(autouse=True)
def _not_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(energy.VARIABLE)


def work() -> None:
    """Half a second of the processor."""
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        sum(range(10_000))


def test_energy_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts add up; without a country there is no CO2."""
    monkeypatch.delenv("CODECARBON_COUNTRY_ISO_CODE", raising=False)
    with energy_measured() as found:
        work()
        assert found.energy is None
    assert found.energy is not None
    assert 0 < found.energy.kwh < 0.01
    assert sum(found.energy.parts.values()) == pytest.approx(found.energy.kwh, rel=1e-3)
    assert 0.4 < found.energy.seconds < 60
    assert found.energy.processor_by
    assert (found.energy.country, found.energy.grams) == (None, None)


def test_a_known_country_gives_co2(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many grams for a kilowatt-hour as that country's electricity makes, and other countries others."""
    rates = {}
    for country in ("FRA", "POL"):
        monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", country)
        with energy_measured() as found:
            work()
        assert found.energy is not None
        assert found.energy.grams is not None
        assert found.energy.country == country
        rates[country] = found.energy.grams / found.energy.kwh
    assert 10 < rates["FRA"] < rates["POL"] < 1500


def test_nothing_is_measured_unless_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for a run nor on a machine that says `off`; a run that asks for it is stronger than the machine."""
    with energy_measured("off") as found:
        work()
    assert found.energy is None
    monkeypatch.setenv(energy.VARIABLE, "off")
    for setting, measured in (("auto", False), ("on", True)):
        with energy_measured(setting) as found:
            work()
        assert (found.energy is not None) == measured


def test_nothing_is_measured_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "missing_package", lambda name: name)
    with energy_measured() as found:
        work()
    assert found.energy is None


def test_measuring_asks_no_one() -> None:
    """No connection, no file in the working directory, and the block's own error comes through."""
    program = """
import os, socket, sys, tempfile
os.chdir(tempfile.mkdtemp())
tried = []
def guard(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname") or (
        event == "socket.connect" and args[0].family in (socket.AF_INET, socket.AF_INET6)
    ):
        tried.append(event)
        raise OSError("closed")
sys.addaudithook(guard)
from hf_ft.environment import energy_measured
try:
    with energy_measured() as found:
        raise KeyError("mine")
except KeyError:
    pass
assert found.energy is not None
assert tried == [], tried
assert os.listdir(".") == [], os.listdir(".")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
