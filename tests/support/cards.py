"""Cards as a stranger uses them: the code on them, run in a fresh process that does not import hf_ft."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.processes import python

SCRIPT = """
import json, os, sys
answers = []
for folder, blocks in json.load(sys.stdin):
    os.chdir(folder)
    for block in blocks:
        names = {}
        lines = block.rstrip().splitlines()
        last = lines[-1].split("  #")[0]
        if last.startswith("classify("):
            lines[-1] = "answer = " + last
        exec("\\n".join(lines), names)
        found = names.get("answer", names.get("label"))
        if "logits" in names:
            found = names["logits"].tolist()
        answers.append(found if found is not None else type(names["model"]).__name__)
assert "hf_ft" not in sys.modules
print(json.dumps(answers, default=float))
"""


def code_blocks(card: str) -> list[str]:
    """The blocks of Python on a card."""
    return re.findall(r"^```python\n(.*?)^```", card, flags=re.DOTALL | re.MULTILINE)


def run_blocks(asked: Sequence[tuple[Path, list[str]]], environment: Mapping[str, str] | None = None) -> list[Any]:
    """Run blocks of code, each list in its folder, in a process without hf_ft; returns what each answers.

    `environment` are all environment variables of the process, by default those of this one.
    """
    variables = {**(os.environ if environment is None else environment)}
    variables.pop("PYTHONPATH", None)
    given = json.dumps([(str(folder), blocks) for folder, blocks in asked])
    done = python("-c", SCRIPT, environment=variables, given=given)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers
