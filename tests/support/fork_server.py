"""Starts Python processes that have torch, scipy and others already: those imports take most of the start of one.

Each line of standard input asks for a process: `words` as they follow `python`, `environment`, `folder`, and the paths
of `files` that are its standard streams. It is a fork of this one, which never imports hf_ft, nor what reads the
environment when it is imported, such as `huggingface_hub`. The answer is the exit status of the process.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import json
import os
import runpy
import sys
import traceback
import types
from contextlib import suppress
from typing import NoReturn

EARLY = [
    "torch._dynamo",
    "torch.distributed.elastic.agent.server",
    "torch.distributed.checkpoint",
    "torch.distributed.tensor",
    "torch.nn.attention.flex_attention",
    "torchvision.transforms.v2",
    "scipy.optimize",
    "scipy.stats",
    "sklearn.linear_model",
    "sklearn.metrics",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "matplotlib.pyplot",
    "PIL.Image",
    "rich.console",
    "rich.progress",
    "aiohttp",
    "dill",
    "fsspec",
    "httpx",
    "httpx2",
    "jinja2",
    "multiprocess",
    "psutil",
    "regex",
    "requests",
    "safetensors.torch",
    "tokenizers",
    "tqdm.auto",
    "yaml",
]


def become(words: list[str], environment: dict[str, str], folder: str, files: list[str]) -> int:
    """Do what `python WORDS` does, with these variables, in this folder; returns the exit code."""
    for number, path in enumerate(files):
        os.dup2(os.open(path, os.O_RDWR), number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww"))
    sys.stderr.reconfigure(errors="backslashreplace", line_buffering=True)
    mine = {os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path}
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    theirs = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [*theirs, *(path for path in sys.path[1:] if path not in mine)]
    importlib.invalidate_caches()
    try:
        sys.modules.pop("sitecustomize", None)
        if importlib.util.find_spec("sitecustomize"):  # what Python runs first
            importlib.import_module("sitecustomize")
        run(words)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run(words: list[str]) -> None:
    """Run `-m MODULE`, `-c PROGRAM` or a script, with the words that follow as its arguments."""
    kind, *rest = words
    if kind == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        sys.argv = words
        runpy.run_path(kind, run_name="__main__")


def end(code: int) -> NoReturn:
    """End a forked process as the interpreter would."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code & 0xFF)


def serve() -> None:
    """Answer requests until there are no more."""
    for name in EARLY:
        with suppress(ImportError):  # some versions of transformers need other packages
            importlib.import_module(name)
    for line in sys.stdin:
        process = os.fork()
        if not process:
            end(become(**json.loads(line)))
        print(os.waitpid(process, 0)[1], flush=True)


if __name__ == "__main__":
    serve()
