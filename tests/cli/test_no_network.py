"""No command connects to anything when model and data are local, although nobody has set HF_HUB_OFFLINE."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GUARD = '''
import os, socket, sys

def guard(event, args):
    """Write down and refuse every connection and every question for an address, in child processes as well."""
    inet = event == "socket.connect" and args[0].family in (socket.AF_INET, socket.AF_INET6)
    if inet or event in ("socket.getaddrinfo", "socket.gethostbyname"):
        with open(os.environ["GUARD_LOG"], "a") as log:
            print(event, args[1] if inet else args[0], file=log)
        raise OSError("the network is closed")

sys.addaudithook(guard)
'''
COMMANDS = """
import json, sys
from hf_ft.cli import main
for words in json.load(sys.stdin):
    print("RUN", words[0], flush=True)
    code = main(words)
    if code:
        sys.exit(f"{words} ended with {code}")
"""


def guarded(program: str, folder: Path, asked: str = "") -> tuple[subprocess.CompletedProcess[str], str]:
    """Run a program whose processes cannot connect; what they tried is returned as well."""
    (folder / "guard").mkdir(exist_ok=True)
    (folder / "guard/sitecustomize.py").write_text(GUARD)
    log = folder / "connections.txt"
    log.write_text("")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    paths = [str(folder / "guard"), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "GUARD_LOG": str(log), "HF_HOME": str(folder / "home")}
    done = subprocess.run(
        [sys.executable, "-c", program], input=asked, capture_output=True, text=True, env=environment, check=False
    )
    return done, log.read_text()


def test_the_guard_sees_connections_of_child_processes(tmp_path: Path) -> None:
    """A connection and a look-up in a child of a child are seen; a pipe between processes is none."""
    child = "import socket\ntry:\n    socket.create_connection(('192.0.2.1', 80), 1)\nexcept OSError: pass"
    program = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}], check=True)"
    _, seen = guarded(program, tmp_path)
    assert "192.0.2.1" in seen
    _, seen = guarded("import socket; a, b = socket.socketpair(); a.send(b'x')", tmp_path)
    assert seen == ""


def another(model: str, folder: Path) -> str:
    """A copy of a model that is not the same to the byte."""
    copy = Path(shutil.copytree(model, folder / "another"))
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    return str(copy)


def commands(model: str, data: str, folder: Path) -> list[list[str]]:
    """Every command on local input."""
    usual = ["--task=text_classification", f"--dataset={data}", "--max_steps=1", f"--cache_dir={folder / 'cache'}"]
    out, other, one = str(folder / "out"), str(folder / "other"), f"--model={model}"
    return [
        ["train", *usual, one, f"--output_dir={out}", "--method=lora"],
        ["train", *usual, one, f"--output_dir={other}", "--method=full"],
        ["soup", out, other, f"--output_dir={folder / 'soup'}"],
        ["compare", *usual, one, f"--output_dir={folder / 'compared'}", "--methods=head,full", "--seeds=1"],
        ["depth", *usual, one, f"--output_dir={folder / 'depth'}", "--depths=0,1"],
        ["rank", model, another(model, folder), *usual, f"--output_dir={folder / 'ranked'}"],
        ["evaluate", out, "--dataset", data],
        ["predict", out, "a text"],
        ["inspect", model],
        ["models"],
        ["methods"],
        ["methods", "--peft"],
        ["cache", "list", f"--cache_dir={folder / 'cache'}"],
        ["cache", "clear", f"--cache_dir={folder / 'cache'}"],
        ["env"],
        ["export", out, "--format=openvino", "--quantize=int8", f"--output_dir={folder / 'exported'}"],
        ["push", out, "--repo_id=me/model", "--dry_run"],
    ]


def test_no_command_connects(text_model: str, text_data: str, tmp_path: Path) -> None:
    """Texts: all commands, with the load-back proof in its own process."""
    from hf_ft.cli.app import COMMANDS as known

    asked = commands(text_model, text_data, tmp_path)
    assert {words[0] for words in asked} == set(known)
    done, seen = guarded(COMMANDS, tmp_path, json.dumps(asked))
    assert seen == ""
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("model", ["builtin", "folder"])
def test_images_need_no_network(model: str, image_model: str, image_data: str, tmp_path: Path) -> None:
    """Images too, with the model that ships and with one in a folder, and `inspect` of an architecture of timm's."""
    usual = ["--task=image_classification", f"--dataset={image_data}", "--max_steps=1", "--method=full"]
    source = "builtin" if model == "builtin" else image_model
    asked = [["train", *usual, f"--model={source}", f"--output_dir={tmp_path / 'out'}"], ["inspect", "timm:resnet18"]]
    done, seen = guarded(COMMANDS, tmp_path, json.dumps(asked))
    assert seen == ""
    assert done.returncode == 0, done.stderr[-2000:]
