"""Identity of code: a digest of what a function or object does, so that different code never shares cached features.

`pickle` identifies a function by module and name alone, which stay the same when its source changes; so does the hash
of `datasets` for importable functions. Here the user's own code is identified by its byte code, with everything that it
refers to; code of installed packages by its name and the version of the package.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import json
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, Path, torch.dtype, torch.device, np.generic)
"""Types whose `repr` identifies a value."""
UNSEEN = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__annotate__", "__firstlineno__"}
UNSEEN |= {"__static_attributes__", "__abstractmethods__", "_abc_impl", "__annotations_cache__", "__qualname__"}
"""Entries of a class that do not affect what it does."""


class Unidentifiable(Exception):
    """A function or object whose state cannot be read."""

    def __init__(self, value: Any) -> None:
        super().__init__(f"its code holds an object of type {type(value).__name__}, whose state cannot be read")


def identify(value: Any) -> str:
    """Return a digest of a function or object, which is the same in every process.

    Partials, bound methods, closures and callable objects are identified with their state.

    Raises:
        Unidentifiable: Part of the state cannot be read, such as an open file or a random number generator.
    """
    described = _Describer().describe(value)
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def name_of(value: Any) -> str:
    """Return the name of a function or object for messages and records: its qualified name, without the module."""
    if isinstance(value, functools.partial):
        return name_of(value.func)
    return str(getattr(value, "__qualname__", type(value).__qualname__)).replace("<locals>.", "")


def identities_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Return name and digest of each function or object; the name alone if it cannot be identified."""
    found = {}
    for name, value in values.items():
        try:
            found[name] = f"{name_of(value)} {identify(value)}"
        except Unidentifiable:
            found[name] = name_of(value)
    return found


class _Describer:
    """Converts a value to JSON; each object is described once, so that cycles end."""

    def __init__(self) -> None:
        self.seen: list[Any] = []  # references to the objects, so that no `id` is reused

    def describe(self, value: Any) -> Any:
        if isinstance(value, PLAIN) and not isinstance(value, enum.Enum):
            return [type(value).__name__, repr(value)]
        place = next((i for i, one in enumerate(self.seen) if one is value), None)
        if place is not None:
            return ["seen", place]
        self.seen.append(value)
        return [type(value).__name__, *self._parts(value)]

    def _parts(self, value: Any) -> list[Any]:
        if isinstance(value, enum.Enum):
            return [self.describe(type(value)), value.name]
        if isinstance(value, list | tuple) and type(value) in (list, tuple):
            return [self.describe(item) for item in value]
        if isinstance(value, set | frozenset):
            return sorted((self.describe(item) for item in value), key=json.dumps)
        if type(value) is dict:
            return sorted(([self.describe(key), self.describe(item)] for key, item in value.items()), key=json.dumps)
        if isinstance(value, types.ModuleType):
            return [value.__name__, _version(value.__name__)]
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return [self.describe(value.__func__), self.describe(value.__self__)]
        if isinstance(value, types.BuiltinFunctionType) and isinstance(value.__self__, types.ModuleType | None):
            return [str(value.__module__), value.__qualname__]
        if isinstance(value, types.CodeType):
            return self._code(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, staticmethod | classmethod):
            return [self.describe(value.__func__)]
        if isinstance(value, property):
            return [self.describe(one) for one in (value.fget, value.fset)]
        return self._object(value)

    def _function(self, function: types.FunctionType) -> list[Any]:
        name = [function.__module__, function.__qualname__]
        if _is_library(function.__code__.co_filename) and "<locals>" not in function.__qualname__:
            return [*name, _version(function.__module__)]
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        known = function.__globals__
        used = [(name, known[name]) for name in _names(function.__code__) if name in known]
        state = [function.__code__, function.__defaults__, function.__kwdefaults__, cells]
        return [*name, *map(self.describe, state), [[name, self._referred(value)] for name, value in used]]

    def _referred(self, value: Any) -> Any:
        # Objects of installed packages may contain what cannot be described, such as a logger; their name is enough.
        library = getattr(value, "__module__", None) if callable(value) else None
        if library and _is_library(getattr(sys.modules.get(library), "__file__", None) or ""):
            return [library, getattr(value, "__qualname__", type(value).__qualname__), _version(library)]
        return self.describe(value)

    def _code(self, code: types.CodeType) -> list[Any]:
        consts = [self.describe(value) for value in code.co_consts]
        return [hashlib.sha256(code.co_code).hexdigest(), consts, list(code.co_names), list(code.co_varnames)]

    def _class(self, value: type) -> list[Any]:
        name = [value.__module__, value.__qualname__]
        file = getattr(sys.modules.get(value.__module__), "__file__", None)
        if value.__module__ == "builtins" or (file and _is_library(file)) or (not file and value.__flags__ & (1 << 8)):
            return [*name, _version(value.__module__)]
        members = [(key, item) for key, item in vars(value).items() if key not in UNSEEN]
        slots = (types.MemberDescriptorType, types.GetSetDescriptorType)
        members = [(key, item) for key, item in members if not isinstance(item, slots)]
        return [*name, [self.describe(base) for base in value.__bases__], [[k, self.describe(v)] for k, v in members]]

    def _object(self, value: Any) -> list[Any]:
        if isinstance(value, torch.Tensor):
            array = value.detach().cpu().contiguous().flatten()
            content = array.view(torch.uint8).numpy().tobytes() if array.numel() else b""
            return [str(value.dtype), list(value.shape), hashlib.sha256(content).hexdigest()]
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
        if isinstance(value, PreTrainedTokenizerBase):  # the rows contain its tokens, so no vocabulary
            special = json.dumps(value.special_tokens_map, sort_keys=True, default=str)
            return [type(value).__qualname__, len(value), value.padding_side, value.truncation_side, special]
        if isinstance(value, functools.partial):
            return [self.describe(value.func), self.describe(value.args), self.describe(value.keywords)]
        if isinstance(value, types.GeneratorType | Iterator) or inspect.isawaitable(value):
            raise Unidentifiable(value)
        try:
            make, args, *state = value.__reduce_ex__(4)
        except Exception as error:  # the object's own code may raise anything
            raise Unidentifiable(value) from error
        items = [list(one) if isinstance(one, Iterator) else one for one in state[:3]]
        return [self.describe(make), self.describe(tuple(args)), [self.describe(item) for item in items]]


def _names(code: types.CodeType) -> list[str]:
    """Return the global names that a function and its inner functions may use."""
    inner = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const)]
    return list(dict.fromkeys([*code.co_names, *inner]))


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


@functools.cache
def _is_library(file: str) -> bool:
    """Return whether a file belongs to an installed package or to this one."""
    own = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    places = [*own, str(Path(__file__).parents[1])]
    elsewhere = {"site-packages", "dist-packages"} & {*Path(file).parts}  # those of the user, or of `pip --target`
    return file.startswith("<frozen") or bool(elsewhere) or any(Path(file).is_relative_to(place) for place in places)


def _version(module: str) -> str:
    top = sys.modules.get(module.partition(".")[0])
    found = vars(top).get("__version__", "") if top else ""
    return found if isinstance(found, str) else ""
