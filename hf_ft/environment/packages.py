"""Names that installed packages define, read from their source code, since importing them takes seconds."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path

from hf_ft.errors import UserError


@functools.cache
def _parsed(package: str, file: str) -> ast.Module:
    """The syntax tree of a module in an installed package.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{package} is not installed.", hint="Install hf-ft with its requirements: pip install hf-ft")
    return ast.parse(Path(spec.submodule_search_locations[0], file).read_text(encoding="utf-8"))


def class_body(package: str, file: str, name: str) -> tuple[ast.stmt, ...]:
    """The statements of a class in an installed package, read without importing it.

    Raises:
        UserError: the package is not installed.
    """
    body = next(n.body for n in _parsed(package, file).body if isinstance(n, ast.ClassDef) and n.name == name)
    return tuple(body)


def _values(package: str, file: str, name: str) -> tuple[str, ...]:
    """The values of an enumeration of strings, in order."""
    return tuple(
        str(node.value.value)
        for node in class_body(package, file, name)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    )


def schedulers() -> tuple[str, ...]:
    """The learning rate schedules of `transformers` (`transformers.SchedulerType`)."""
    return enum_values("SchedulerType")


def peft_method_names() -> tuple[str, ...]:
    """The methods of PEFT (`peft.PeftType`), in lower case as users write them."""
    return tuple(sorted(name.lower() for name in _values("peft", "utils/peft_types.py", "PeftType")))


ENUMERATIONS = {
    **dict.fromkeys(("SchedulerType", "IntervalStrategy", "SaveStrategy", "HubStrategy"), "trainer_utils.py"),
    "OptimizerNames": "training_args.py",
}
"""Enumeration that annotates fields of `TrainingArguments` -> the file of `transformers` that defines it."""


def enum_values(enumeration: str) -> tuple[str, ...]:
    """The values of one of `ENUMERATIONS`."""
    return _values("transformers", ENUMERATIONS[enumeration], enumeration)


PACKAGES = {
    "azure_ml": ("azureml",),
    "flyte": ("flytekit",),
    "kubeflow": (),
    "tensorboard": ("tensorboard", "tensorboardX"),
}
"""Tracker -> the packages of which it needs one, where that is not a package of its own name."""


def trackers() -> tuple[str, ...]:
    """The experiment trackers that `transformers` can report to (`--report_to`)."""
    for node in _parsed("transformers", "integrations/integration_utils.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INTEGRATION_TO_CALLBACK":
            assert isinstance(node.value, ast.Dict)
            return tuple(str(key.value) for key in node.value.keys if isinstance(key, ast.Constant))
    return ()


def missing_package(tracker: str) -> str:
    """The package that a tracker, or an option of that name, needs and that is not installed; else empty."""
    wanted = PACKAGES.get(tracker, (tracker,))
    return wanted[0] if wanted and not any(map(importlib.util.find_spec, wanted)) else ""
