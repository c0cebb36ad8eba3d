"""The precision of training by default: a function of the device, which every explicit option overrules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hf_ft.environment.devices import DeviceFacts, device_facts
from hf_ft.errors import UserError
from hf_ft.settings import resume_check
from hf_ft.settings.precision import default_precision, uses_tf32
from tests.support.layers import settings

AMPERE = DeviceFacts("cuda", bfloat16=True, tf32=True)
TURING = DeviceFacts("cuda")
ROCM = DeviceFacts("cuda", bfloat16=True)
APPLE = DeviceFacts("mps")
XEON = DeviceFacts("cpu", bfloat16=True)
CPU = DeviceFacts("cpu")


@pytest.mark.parametrize(
    ("device", "expected"), [(AMPERE, True), (ROCM, True), (TURING, False), (APPLE, False), (XEON, False), (CPU, False)]
)
def test_bfloat16_where_a_gpu_has_units_for_it(device: DeviceFacts, expected: bool) -> None:
    """On CPUs never, not even with units; where it is not the default nothing is set at all."""
    assert default_precision({"seed": 3}, device) == ({"bf16": True} if expected else {})


@pytest.mark.parametrize(
    "explicit",
    [{"bf16": False}, {"bf16": True}, {"fp16": True}, {"bf16": False, "fp16": False}, {"deepspeed": "ds.json"}],
    ids=str,
)
def test_explicit_precision_always_wins(explicit: Mapping[str, Any]) -> None:
    """Nothing is added to what the user wrote, `false` included, nor to the file of DeepSpeed."""
    assert default_precision(explicit, AMPERE, "bf16") == {}


@pytest.mark.parametrize("other", [{"fp16": False}, {"tf32": False}, {"bf16": None}], ids=str)
def test_options_that_leave_the_choice_open(other: Mapping[str, Any]) -> None:
    """No float16, no TF32: neither says anything against bfloat16."""
    assert default_precision(other, AMPERE) == {"bf16": True}


@pytest.mark.parametrize(
    ("launched", "expected"),
    [("bf16", {"bf16": True}), ("fp16", {"fp16": True}), ("no", {}), ("fp8", {})],
)
def test_precision_of_the_launcher(launched: str, expected: Mapping[str, bool]) -> None:
    """What `accelerate launch` passes on becomes the option, so that features and records have it too."""
    assert default_precision({}, CPU, launched) == expected
    assert default_precision({}, AMPERE, launched) == (expected or ({"bf16": True} if launched == "no" else {}))


@pytest.mark.parametrize(
    ("option", "plain", "device", "expected"),
    [
        (None, False, AMPERE, True),
        (None, True, AMPERE, False),  # --bf16 false: every bit of float32
        (True, True, AMPERE, True),
        (False, False, AMPERE, False),
        (None, False, TURING, False),
        (None, False, CPU, False),
    ],
)
def test_tf32_for_what_stays_float32(option: bool | None, plain: bool, device: DeviceFacts, expected: bool) -> None:
    """By default where the GPU has it, unless plain float32 was asked for; the option overrules both."""
    assert uses_tf32(option, plain, device) is expected


def test_arguments_have_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`TrainingArguments` on a GPU with units, and `--bf16 false` there."""
    monkeypatch.setattr("hf_ft.settings.training_arguments.device_facts", lambda use_cpu: CPU if use_cpu else AMPERE)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    assert settings(tmp_path).arguments().bf16 is True
    assert settings(tmp_path, bf16=False).arguments().bf16 is False
    assert settings(tmp_path, use_cpu=True).arguments().bf16 is False
    assert "bf16" not in settings(tmp_path).config.must_match


def test_this_machine() -> None:
    """With `--use_cpu` the device is the processor, whatever else is there."""
    assert device_facts(use_cpu=True).kind == "cpu"
    assert not device_facts(use_cpu=True).tf32


def test_resume_in_another_precision(tmp_path: Path) -> None:
    """A run that began on another machine has the precision of its default, which resuming keeps or refuses."""
    facts = {"data": "d", "model": "m", "processes": 1, "extensions": {}}
    resume_check.write_start(tmp_path, settings(tmp_path).config, {**facts, "precision": "bfloat16"})
    resume_check.check_content(tmp_path, {**facts, "precision": "bfloat16"})
    with pytest.raises(UserError, match=r"other precision: bfloat16 then, float32 now\."):
        resume_check.check_content(tmp_path, {**facts, "precision": "float32"})


def test_compiling_needs_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line before anything is read; a backend that generates no code needs none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"^--torch_compile needs a C\+\+ compiler, ") as error:
        settings(tmp_path, torch_compile=True).arguments()
    assert error.value.option == "torch_compile"
    assert settings(tmp_path, torch_compile_backend="aot_eager").arguments().torch_compile is True
