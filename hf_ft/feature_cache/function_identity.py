"""Identity: a digest of a function or object by what it does, so that features are never shared between two of them.

`pickle` names a function by its module and name alone, which stay the same when its source changes; `datasets`' hash of
functions does the same for those that can be imported. Here code of the user's own counts by its byte code, with all
that it refers to; code of installed packages by its name and the version of the package.
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
"""Values that their `repr` identifies."""
UNSEEN = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__annotate__", "__firstlineno__"}
UNSEEN |= {"__static_attributes__", "__abstractmethods__", "_abc_impl", "__annotations_cache__", "__qualname__"}
"""Entries of a class that say nothing of what it does."""


class Unidentifiable(Exception):
    """A function or object whose state cannot be read."""

    def __init__(self, value: Any) -> None:
        super().__init__(f"its code holds an object of type {type(value).__name__}, whose state cannot be read")


def identify(value: Any) -> str:
    """The digest of a function or object: equal for what does the same, also in another process.

    Partials, bound methods, closures and callable objects count with their state.

    Raises:
        Unidentifiable: part of the state cannot be read, such as an open file or a generator of random numbers.
    """
    described = _Describer().describe(value)
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def name_of(value: Any) -> str:
    """How messages and records call a function or object: its qualified name, without the module."""
    if isinstance(value, functools.partial):
        return name_of(value.func)
    return str(getattr(value, "__qualname__", type(value).__qualname__)).replace("<locals>.", "")


def identities_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Functions and objects by name, each as its name and its digest; the name alone where it cannot be identified."""
    found = {}
    for name, value in values.items():
        try:
            found[name] = f"{name_of(value)} {identify(value)}"
        except Unidentifiable:
            found[name] = name_of(value)
    return found


class _Describer:
    """Turns a value into JSON; each object once, so that cycles end."""

    def __init__(self) -> None:
        self.seen: list[Any] = []  # holds the objects, so that no `id` is given out twice

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
        # Its own packages may hold what cannot be described, such as a logger; a name says enough.
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
        if isinstance(value, PreTrainedTokenizerBase):  # its vocabulary shows in the tokens, which are part of the rows
            special = json.dumps(value.special_tokens_map, sort_keys=True, default=str)
            return [type(value).__qualname__, len(value), value.padding_side, value.truncation_side, special]
        if isinstance(value, functools.partial):
            return [self.describe(value.func), self.describe(value.args), self.describe(value.keywords)]
        if isinstance(value, types.GeneratorType | Iterator) or inspect.isawaitable(value):
            raise Unidentifiable(value)
        try:
            make, args, *state = value.__reduce_ex__(4)
        except Exception as error:  # whatever the object's own code raises
            raise Unidentifiable(value) from error
        items = [list(one) if isinstance(one, Iterator) else one for one in state[:3]]
        return [self.describe(make), self.describe(tuple(args)), [self.describe(item) for item in items]]


def _names(code: types.CodeType) -> list[str]:
    """The global names that a function and those inside it may use."""
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
    """Whether a file belongs to an installed package or to this one."""
    own = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    places = [*own, str(Path(__file__).parents[1])]
    return file.startswith("<frozen") or any(Path(file).is_relative_to(place) for place in places)


def _version(module: str) -> str:
    top = sys.modules.get(module.partition(".")[0])
    found = vars(top).get("__version__", "") if top else ""
    return found if isinstance(found, str) else ""
