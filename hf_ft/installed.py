"""What installed packages offer, read from their source, since importing them takes seconds."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path

from hf_ft.lookup import UserError


@functools.cache
def class_body(package: str, file: str, name: str) -> tuple[ast.stmt, ...]:
    """The statements of a class in an installed package, read without importing it.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{package} is not installed. Install hf-ft with its requirements: pip install hf-ft")
    source = Path(spec.submodule_search_locations[0], file).read_text(encoding="utf-8")
    body = next(n.body for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == name)
    return tuple(body)


def _values(package: str, file: str, name: str) -> tuple[str, ...]:
    """The values of an enumeration of texts, in order."""
    return tuple(
        str(node.value.value)
        for node in class_body(package, file, name)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    )


def schedulers() -> tuple[str, ...]:
    """The learning rate schedules of `transformers` (`transformers.SchedulerType`)."""
    return _values("transformers", "trainer_utils.py", "SchedulerType")


def peft_names() -> tuple[str, ...]:
    """The methods of PEFT (`peft.PeftType`), in lower case as users write them."""
    return tuple(sorted(name.lower() for name in _values("peft", "utils/peft_types.py", "PeftType")))
