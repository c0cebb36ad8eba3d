"""Help and every mistake in an option answer without torch, at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

from tests.support.layers import TASK

HEAVY = ("torch", "transformers", "datasets", "timm", "peft", "torchvision")


NUMERIC = ("numpy", "pandas", "PIL")


GOOD = ["--task", TASK, "--model", "org/model", "--dataset", "org/data", "--output_dir", "never"]


QUICK = [
    # command, exit code
    ([], 0),
    (["--help"], 0),
    (["--version"], 0),
    (["methods"], 0),
    (["methods", "--help"], 0),
    (["train", "--help"], 0),
    (["depth", "--help"], 0),
    (["train", "--help_training"], 0),
    (["inspect", "--help"], 0),
    (["evaluate", "--help"], 0),
    (["predict", "--help"], 0),
    (["push", "--help"], 0),
    (["cache", "--help"], 0),
    (["soup", "--help"], 0),
    (["soup", "nowhere", "--output_dir", "never"], 2),
    (["soup", "nowhere/one", "nowhere/other", "--output_dir", "never"], 2),
    (["trian"], 2),
    (["train"], 2),
    (["train", "--lerning_rate", "1"], 2),
    (["train", "--warmup_ratio", "0.1"], 2),
    (["train", "--learning_rate"], 2),
    (["train", "stray"], 2),
    (["train", *GOOD, "--learning_rate", "fast"], 2),
    (["train", *GOOD, "--learning_rate", "0"], 2),
    (["train", *GOOD, "--lr", "1", "--learning_rate", "1"], 2),
    (["train", *GOOD, "--task", "text_clasification"], 2),
    (["train", *GOOD, "--method", "lpft"], 2),
    (["train", *GOOD, "--method", "last_n"], 2),
    (["train", *GOOD, "--augment", "basicc"], 2),
    (["train", *GOOD, "--metric_for_best_model", "accurracy"], 2),
    (["train", *GOOD, "--problem_type", "multi_label"], 2),
    (["train", *GOOD, "--model", "/nowhere/model"], 2),
    (["train", *GOOD, "--dataset", "/nowhere/data"], 2),
    (["train", *GOOD, "--output_dir", "/"], 2),
    (["train", *GOOD, "--output_dir", "x" * 300], 2),
    (["train", *GOOD, "--output_dir", "/proc/x"], 2),
    (["train", *GOOD, "--learning_rate", "inf"], 2),
    (["train", *GOOD, "--label_smoothing_factor", "2"], 2),
    (["train", *GOOD, "--optim", "adamm"], 2),
    (["train", *GOOD, "--train_sampling_strategy", "rnd"], 2),
    (["train", *GOOD, "--report_to", "nosuch"], 2),
    (["train", *GOOD, "--deepspeed", "nosuch.json"], 2),
    (["train", *GOOD, "--config", "/nowhere/settings.yaml"], 2),
    (["inspect"], 2),
    (["inspect", "/nowhere/model"], 2),
    (["inspect", "org/model", "--method", "hed"], 2),
    (["evaluate", "/nowhere/out", "--dataset", "/nowhere/data"], 2),
    (["predict", "/nowhere/out", "text"], 2),
    (["push", "/nowhere/out", "--repo_id", "me/name"], 2),
    (["methods", "stray"], 2),
    (["compare", "--help"], 0),
    (["compare", *GOOD, "--methods", "head"], 2),
    (["rank", "--help"], 0),
    (["rank"], 2),
    (["rank", "org/one"], 2),
    (["rank", "org/one", "org/two"], 2),
    (["models"], 0),
    (["models", "--help"], 0),
    (["models", "--size", "huge"], 2),
    (["cache"], 2),
    (["cache", "lsit"], 2),
    (["depth", *GOOD, "--method", "head"], 2),
    (["depth", *GOOD, "--depths", "1,two"], 2),
    (["depth", *GOOD, "--depths", "3"], 2),
    (["depth", *GOOD, "--seeds", "0"], 2),
    (["depth", *GOOD, "--redraw", "OUT"], 2),
]


def imported_by(script: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run a script in a fresh process; the process, and which heavy packages it had imported when it ended."""
    reader, writer = os.pipe()
    code = (
        "import atexit, os, sys\n"
        f"watched = {(*HEAVY, *NUMERIC)!r}\n"
        f"atexit.register(lambda: os.write({writer}, ' '.join(n for n in watched if n in sys.modules).encode()))\n"
    )
    command = [sys.executable, "-c", code + script]
    done = subprocess.run(command, capture_output=True, text=True, pass_fds=[writer], check=False)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        return done, set(pipe.read().split())


def test_the_watch_sees_what_is_imported() -> None:
    """A script that does import a watched package is found out, so the tests below can fail."""
    _, found = imported_by("import numpy")
    assert found == {"numpy"}


@pytest.mark.parametrize(("words", "code"), QUICK, ids=[" ".join(words[-3:]) or "nothing" for words, _ in QUICK])
def test_help_and_mistakes_answer_before_torch_is_imported(words: list[str], code: int) -> None:
    """In a real process: exit code, one line on stderr or help on stdout, and no heavy import."""
    done, found = imported_by(f"from hf_ft.cli import main\nsys.exit(main({words!r}))")
    assert done.returncode == code
    assert not found & set(HEAVY)
    if code:
        assert done.stdout == ""
        assert re.fullmatch(r"error: [^\n]+\n", done.stderr)
    else:
        assert done.stderr == ""
        assert done.stdout.strip()


def test_importing_the_package_imports_nothing() -> None:
    """Neither torch nor transformers nor numpy, and no module of its own."""
    done, found = imported_by("import hf_ft\nprint(*sorted(m for m in sys.modules if m.startswith('hf_ft')))")
    assert done.returncode == 0
    assert found == set()
    assert done.stdout.split() == ["hf_ft"]


def test_misspelt_option_is_answered_at_once() -> None:
    """`python -m hf_ft` as a user runs it, in less time than importing torch alone takes."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "hf_ft", "train", "--lerning_rate", "1"], capture_output=True, text=True, check=False
    )
    assert time.perf_counter() - started < 3
    assert done.returncode == 2
    assert done.stderr.startswith("error: Unknown option '--lerning_rate' in the command line.")
