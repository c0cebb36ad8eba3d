"""Interrupted runs: damaged checkpoints, signals, full disks, and what a resumed run has to have in common."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from hf_ft import finetune
from hf_ft.cli.app import main
from hf_ft.errors import UserError
from hf_ft.settings import resume_check as resuming
from hf_ft.storage import sealed_files as sealed
from hf_ft.training import checkpoints, loop
from hf_ft.training import data_order as order
from hf_ft.training import stage_runner as training
from tests.support.scripted_scores import scripted_losses


class Work:
    """A small training by steps, and the result that it has when nothing happens to it."""

    def __init__(self, model: str, data: str, root: Path) -> None:
        self.model, self.data, self.root = model, data, root

    def words(self, out: Path | str, **settings: Any) -> list[str]:
        """The command line: ten steps, five in an epoch, with a checkpoint after every third."""
        usual = {"task": "text_classification", "model": self.model, "dataset": self.data, "method": "full"}
        usual |= {"num_train_epochs": 2, "per_device_train_batch_size": 8, "seed": 3, "load_back_proof": "false"}
        usual |= {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3}
        usual |= {"metric_for_best_model": "loss", "save_total_limit": 5, "disable_tqdm": "true"}
        given = {**usual, "output_dir": out, **settings}
        return ["train", *(f"--{name}={value}" for name, value in given.items() if value is not None)]

    def interrupted(self, out: Path | str, step: int, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        """Train until something ends the process during a step."""
        with monkeypatch.context() as patch:
            patch.setattr(training, "Lines", at_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM)))
            assert main(self.words(out, **settings)) == 143


def at_step(step: int, action: Callable[[], Any]) -> type[Any]:
    """A callback like that of a stage, which does something during a step."""

    class Doing(training.Lines):  # type: ignore[name-defined]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step - 1:
                action()

    return Doing


def differing(one: Path, other: Path) -> int:
    """How many tensors of two results are not the same to the bit."""
    tensors = [load_file(folder / "model.safetensors") for folder in (one, other)]
    assert len(tensors[0]) == len(tensors[1]) > 40
    return sum(not torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())


@pytest.fixture(scope="module")
def work(text_model: str, text_data: str, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """The training, whose untouched result is in `whole`."""
    found = Work(text_model, text_data, tmp_path_factory.mktemp("work"))
    assert main(found.words(found.root / "whole")) == 0
    return found


@pytest.fixture(scope="module")
def begun(work: Work) -> Path:
    """The folder of a run that was ended in its eighth step; copied by each test."""
    with pytest.MonkeyPatch.context() as patch:
        work.interrupted(work.root / "begun", 8, patch)
    stage = work.root / "begun/checkpoints/1-full"
    assert [path.name for path in checkpoints.steps(stage)] == ["checkpoint-3", "checkpoint-6", "checkpoint-8"]
    return work.root / "begun"


# --- Damage -----------------------------------------------------------------------------------------------------------

PARTS = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "sealed.json")


@pytest.mark.parametrize("damage", ["halved", "missing", "changed"])
@pytest.mark.parametrize("part", PARTS)
def test_trap_half_written_checkpoint(
    part: str, damage: str, work: Work, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong with the newest checkpoint: the one before is taken, one line says so, the result is the same.

    The run goes on in another folder than it began in.
    """
    out = Path(shutil.copytree(begun, tmp_path / "moved"))
    path = out / "checkpoints/1-full/checkpoint-8" / part
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "halved":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    capsys.readouterr()
    assert main([*work.words(out), "--resume"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resume ")]
    assert [("checkpoint-8" in line, "checkpoint-6" in line) for line in said] == [(True, False), (False, True)]
    assert ("incomplete" if part == "sealed.json" and damage == "missing" else part) in said[0]
    assert differing(out, work.root / "whole") == 0


def test_without_a_whole_checkpoint_a_stage_begins_anew(
    work: Work, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All three are damaged: each is told of, and the stage is trained from its beginning."""
    out = Path(shutil.copytree(begun, tmp_path / "out"))
    for path in out.glob("checkpoints/1-full/checkpoint-*/optimizer.pt"):
        path.write_bytes(b"")
    capsys.readouterr()
    assert main([*work.words(out), "--resume"]) == 0
    assert capsys.readouterr().out.count("is damaged") == 3
    assert differing(out, work.root / "whole") == 0


def test_a_checkpoint_without_its_best_one_is_left_out(begun: Path, tmp_path: Path) -> None:
    """The best so far is needed at the end: where it is damaged, those after it cannot give the same result."""
    stage = Path(shutil.copytree(begun / "checkpoints/1-full", tmp_path / "1-full"))
    found = checkpoints.newest(stage, [])
    assert found is not None
    assert found.best is not None
    assert found.folder == stage / "checkpoint-8"
    assert found.best.parent == stage
    assert found.best != found.folder
    (found.best / "model.safetensors").write_bytes(b"")
    notes: list[str] = []
    again = checkpoints.newest(stage, notes)
    assert f"in {found.best.name}" in notes[0]
    assert not (stage / "checkpoint-8").exists()
    assert again is None or again.folder.name < found.best.name


@pytest.mark.parametrize("content", [b"", b"{}", b'{"sha256": "0", "name": "full"}', None])
def test_damaged_end_of_a_stage(
    content: bytes | None,
    work: Work,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A `stage.json` that cannot be read is no end: the stage goes on from its last checkpoint, without a step.

    Neither is one of another version, with other fields.
    """
    out = tmp_path / "out"

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_keep_best", interrupted)
        assert main(work.words(out)) == 130
    done = out / "checkpoints/1-full/stage.json"
    result = json.loads(done.read_text())
    assert result.pop("name") == "full"
    del result["sha256"]
    done.write_bytes(sealed.sealed({**result, "called": "full"}) if content is None else content)
    steps: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(training, "Lines", at_step(10, lambda: steps.append(10)))
        assert main([*work.words(out), "--resume"]) == 0
    assert steps == []
    assert f"stage.json {'is not what was' if content is not None else 'was'} written" in capsys.readouterr().out
    assert differing(out, work.root / "whole") == 0


def test_no_step_follows_the_last(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the last checkpoint, which stands within an epoch: `Trainer` would make a step too many."""
    settings = {"num_train_epochs": None, "max_steps": 7, "load_best_model_at_end": "false"}
    assert main(work.words(tmp_path / "whole", **settings)) == 0

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "end", interrupted)
        assert main(work.words(tmp_path / "out", **settings)) == 130
    assert main([*work.words(tmp_path / "out", **settings), "--resume"]) == 0
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert [stage["steps"] for stage in record["stages"]] == [7]
    assert differing(tmp_path / "out", tmp_path / "whole") == 0


def test_patience_is_not_forgotten(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Early stopping counts the evaluations before an interruption, too."""
    scripted_losses(monkeypatch, *(1.0, 2.0, 3.0), *(1.0, 2.0), *(3.0, 9.0, 9.0))
    settings = {"num_train_epochs": 6, "early_stopping_patience": 2}
    assert main(work.words(tmp_path / "whole", **settings)) == 0
    work.interrupted(tmp_path / "out", 7, monkeypatch, **settings)
    assert main([*work.words(tmp_path / "out", **settings), "--resume"]) == 0
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "out")]
    assert [record["stages"][0]["steps"] for record in records] == [9, 9]
    assert differing(tmp_path / "out", tmp_path / "whole") == 0


# --- The best and the last --------------------------------------------------------------------------------------------


def test_trap_path_inside_trainer_state(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Begun by a relative path, moved, and resumed by an absolute one from elsewhere: the best stays the best."""
    scripted_losses(monkeypatch, *(1.0, 2.0, 3.0, 4.0), *(1.0, 2.0, 3.0, 4.0))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(work.words("whole")) == 0
    work.interrupted("begun", 8, monkeypatch)
    shutil.copytree("begun", "elsewhere/moved")
    newest = json.loads(Path("begun/checkpoints/1-full/checkpoint-8/trainer_state.json").read_text())
    assert newest["best_model_checkpoint"] is None
    assert newest["best_global_step"] == 3
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main([*work.words(tmp_path / "elsewhere/moved"), "--resume"]) == 0
    assert "does not exist anymore" not in capsys.readouterr().err
    assert differing(tmp_path / "elsewhere/moved", tmp_path / "whole") == 0
    assert (tmp_path / "begun/checkpoints/1-full/checkpoint-3").is_dir()  # the old copy is left alone


@pytest.mark.parametrize("method", ["full", "lp_ft"])
def test_last_weights_after_a_kill_at_the_end(
    method: str, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `load_best_model_at_end` false, what a resumed run ends with is the last state, and not the best one."""
    scripted_losses(monkeypatch, *map(float, range(100)))
    settings = {"load_best_model_at_end": "false", "method": method, "head_solver": "sgd" if method != "full" else None}
    assert main(work.words(tmp_path / "whole", **settings)) == 0

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hf_ft.evaluation.score", interrupted)
        assert main(work.words(tmp_path / "out", **settings)) == 130
    (last,) = tmp_path.glob("out/checkpoints/*full/stage.json")
    assert json.loads(last.read_text())["checkpoint"].endswith("/whole")
    assert main([*work.words(tmp_path / "out", **settings), "--resume"]) == 0
    assert differing(tmp_path / "out", tmp_path / "whole") == 0


# --- Other settings ---------------------------------------------------------------------------------------------------

OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 4},
    "learning_rate": {"learning_rate": 0.01},
    "per_device_train_batch_size": {"per_device_train_batch_size": 4},
    "num_train_epochs": {"num_train_epochs": 3.0},
    "method": {"method": "scratch"},
    "max_train_examples": {"max_train_examples": 20},
    "weight_decay": {"weight_decay": 0.5},
}


@pytest.mark.parametrize("name", OTHERS)
def test_resuming_with_another_setting_is_refused(
    name: str, work: Work, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The setting, then and now, and what to do; the folder stays as it is."""
    before = sorted(begun.rglob("*"))
    assert main([*work.words(begun, **OTHERS[name]), "--resume"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name} was " in line
    assert f", now '{OTHERS[name][name]}'" in line
    assert line.count(", now ") == 1, "settings that follow from others are not named"
    assert "--overwrite_output_dir" in line
    assert "--output_dir" in line
    assert sorted(begun.rglob("*")) == before


def test_other_settings_are_told_before_torch_is_imported(work: Work, begun: Path) -> None:
    """In a process of its own, which says whether it imported torch."""
    words = [*work.words(begun, seed=4), "--resume"]
    code = f"import sys; from hf_ft.cli import main; assert main({words!r}) == 2; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)


def test_resuming_with_other_data_or_another_model_is_refused(
    work: Work, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Known by their content: a copy elsewhere is the same, one cell or one weight more is not."""
    from safetensors.torch import save_file

    data, model = Path(shutil.copytree(work.data, tmp_path / "d")), Path(shutil.copytree(work.model, tmp_path / "m"))
    out = Path(shutil.copytree(begun, tmp_path / "out"))
    assert main([*work.words(out, dataset=data, model=model), "--resume"]) == 0
    assert differing(out, work.root / "whole") == 0
    table = (data / "train.csv").read_text()
    (data / "train.csv").write_text(table.replace("film number train 7", "film number train seven"))
    out = Path(shutil.copytree(begun, tmp_path / "again"))
    capsys.readouterr()
    assert main([*work.words(out, dataset=data), "--resume"]) == 2
    assert "other data" in capsys.readouterr().err
    weights = load_file(model / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][7, 7] += 1
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert main([*work.words(out, model=model), "--resume"]) == 2
    assert "other weights of the model" in capsys.readouterr().err


def test_settings_that_change_nothing_may_differ(work: Work, begun: Path, tmp_path: Path) -> None:
    """Where things are, what is told, and how data are loaded."""
    out = Path(shutil.copytree(begun, tmp_path / "out"))
    free = {"disable_tqdm": "false", "cache_dir": tmp_path / "features", "logging_steps": 2, "save_total_limit": 1}
    free |= {"dataloader_num_workers": 2, "run_name": "again", "report_to": "none"}
    free |= {"per_device_eval_batch_size": 1, "eval_accumulation_steps": 1, "torch_empty_cache_steps": 4}
    assert main([*work.words(out, **free), "--resume"]) == 0
    assert differing(out, work.root / "whole") == 0


def test_every_free_setting_exists() -> None:
    """The list of settings that may differ names none that is misspelt; those of other versions are few."""
    from hf_ft.settings.schema import config_fields
    from hf_ft.settings.training_arguments import training_fields

    unknown = resuming.ELSEWHERE - set(config_fields()) - set(training_fields())
    assert len(unknown) <= 8, unknown
    assert not {"seed", "learning_rate", "method", "bf16", "max_length", "optim"} & resuming.ELSEWHERE


def test_a_token_is_not_written_down(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run began with is in the folder, but for secrets."""
    work.interrupted(tmp_path / "out", 2, monkeypatch, push_to_hub=False, hub_token="hf_" + "a" * 30)
    text = (tmp_path / "out" / resuming.START).read_text()
    assert '"seed": 3' in text
    assert "hf_aaaa" not in text


def test_nothing_to_resume(work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In an empty folder a run starts, and says so; a finished one has nothing left to do, and is left alone."""
    out = tmp_path / "out"
    assert main([*work.words(out), "--resume"]) == 0
    assert capsys.readouterr().out.count("there is no run in") == 1
    assert differing(out, work.root / "whole") == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    (out / checkpoints.REMOVED / "1-full").mkdir(parents=True)  # Ctrl-C at the very end
    assert main([*work.words(out), "--resume"]) == 0
    assert "has finished" in capsys.readouterr().out
    assert not (out / checkpoints.REMOVED).exists()
    assert main([*work.words(out, seed=4), "--resume"]) == 2
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert {path: time for path, time in after.items() if path.name != "lock"} == {
        path: time for path, time in before.items() if path.name != "lock"
    }


def test_no_checkpoint_goes_while_another_process_reads_it(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every process loads the best checkpoint on its own; all wait for each other before the first removes others."""
    order_of: list[str] = []

    def noted(owner: Any, name: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: order_of.append(name) or original(*args, **kwargs))  # type: ignore[func-returns-value]

    for owner, name in (
        (Accelerator, "wait_for_everyone"),
        (training.StageTrainer, "_load_best_model"),
        (checkpoints, "end"),
    ):
        noted(owner, name)
    assert main(work.words(tmp_path / "out", num_train_epochs=1)) == 0
    assert order_of[order_of.index("_load_best_model") :] == ["_load_best_model", "wait_for_everyone", "end"]


def test_a_stage_that_logged_nothing_has_epochs(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the last checkpoint of a stage without evaluations: nothing was logged, and the next stage goes on.

    Its epochs are counted from those of the stage.
    """
    plan = tmp_path / "plan.yaml"
    plan.write_text("stages:\n  - {name: one, trains: head, share: 0.5}\n  - {name: two, trains: all, share: 0.5}\n")
    settings = {"method": None, "plan": plan, "eval_strategy": "no", "eval_steps": None, "save_steps": None}
    settings |= {"save_strategy": "epoch", "head_solver": "sgd", "cache": "off"}

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "end", killed)
        assert main(work.words(tmp_path / "out", **settings)) == 130
    assert main([*work.words(tmp_path / "out", **settings), "--resume"]) == 0
    first, second = json.loads((tmp_path / "out/run.json").read_text())["stages"]
    assert not any("epoch" in entry for entry in first["history"])
    assert second["history"][-1]["epoch"] == 2


@pytest.fixture(autouse=True)
def _usual_signals() -> Iterator[None]:
    """Signals as in a terminal: a suite that runs in the background ignores some, and a run leaves these alone."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL, signal.SIGUSR1: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# --- Signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138), ("SIGINT", 130)])
def test_a_signal_leaves_a_checkpoint(
    name: str,
    code: int,
    work: Work,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """After the step that is running, in the middle of an epoch; the resumed run gives the same to the bit."""
    number, handlers = getattr(signal, name), [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(training, "Lines", at_step(7, lambda: os.kill(os.getpid(), number)))
        assert main(work.words(tmp_path / "out")) == code
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    said = capfd.readouterr().err
    assert f"{name}: a checkpoint is written" in said
    assert "--resume" in said
    newest = checkpoints.steps(tmp_path / "out/checkpoints/1-full")[-1]
    assert newest.name == "checkpoint-7"
    assert main([*work.words(tmp_path / "out"), "--resume"]) == 0
    assert differing(tmp_path / "out", work.root / "whole") == 0


@pytest.mark.parametrize("step", [4, 5])
def test_augmented_images_are_the_same_after_a_signal(
    step: int, image_model: str, image_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random crops, workers that load ahead, and a stop within an epoch and at the end of one."""
    work = Work(image_model, image_data, tmp_path)
    settings = {"task": "image_classification", "augment": "trivial", "dataloader_num_workers": 2}
    settings |= {"eval_strategy": None, "save_strategy": None, "eval_steps": None, "save_steps": None}
    assert main(work.words(tmp_path / "whole", **settings)) == 0
    work.interrupted(tmp_path / "out", step, monkeypatch, **settings)
    assert main([*work.words(tmp_path / "out", **settings), "--resume"]) == 0
    assert differing(tmp_path / "out", tmp_path / "whole") == 0


GROUP = """
import os, subprocess, sys, time
import hf_ft.training.stage_runner as training
where, name = sys.argv[1:3]
class Doing(training.Lines):
    def send(self):
        if "sent" not in globals():
            globals()["sent"] = True  # by another process: torch's workers take what their parent sends for the end
            subprocess.run(["kill", f"-{name}", "--", f"-{os.getpgrp()}"], start_new_session=True)
            time.sleep(0.5)
    def on_step_begin(self, args, state, control, **kwargs):
        if where == "step" and state.global_step == 6:
            self.send()
    def on_prediction_step(self, *args, **kwargs):
        if where == "evaluation":
            self.send()
training.Lines = Doing
from hf_ft.cli import main
sys.exit(main(sys.argv[3:]))
"""
"""Runs a command whose group of processes gets a signal, once in the middle of a step or of an evaluation."""


@pytest.mark.parametrize(
    ("where", "name", "code", "newest"),
    [
        ("step", "SIGTERM", 143, "checkpoint-7"),
        ("evaluation", "SIGTERM", 143, "checkpoint-3"),
        ("step", "SIGHUP", 129, "checkpoint-7"),
        ("none", "SIGTERM", 0, ""),
    ],
)
def test_a_signal_to_the_whole_group(where: str, name: str, code: int, newest: str, work: Work, tmp_path: Path) -> None:
    """As a launcher, a scheduler or a closing terminal sends it: workers go on loading until the checkpoint is there.

    No process of the group is left, also where nothing happened to it.
    """
    words = work.words(tmp_path / "out", dataloader_num_workers=2)
    process = subprocess.Popen(
        [sys.executable, "-c", GROUP, where, name.removeprefix("SIG"), *words], start_new_session=True
    )
    assert process.wait(timeout=200) == code
    steps = checkpoints.steps(tmp_path / "out/checkpoints/1-full")
    assert (steps[-1].name if steps else "") == newest
    deadline = time.monotonic() + 10
    while True:  # a worker ends when it sees that nobody waits for it
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline, "processes of the group are left"
        time.sleep(0.1)


def test_a_second_interrupt_ends_at_once(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C twice within a step: no checkpoint is written, and none is needed."""

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training, "Lines", at_step(7, twice))
    assert main(work.words(tmp_path / "out")) == 130
    assert checkpoints.steps(tmp_path / "out/checkpoints/1-full")[-1].name == "checkpoint-6"


def test_an_ignored_signal_stays_ignored(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `nohup`, the end of the terminal is none of the run's."""
    monkeypatch.setattr(training, "Lines", at_step(4, lambda: os.kill(os.getpid(), signal.SIGHUP)))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main(work.words(tmp_path / "out")) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_training_in_another_thread(work: Work, tmp_path: Path) -> None:
    """Only the main thread may take signals: elsewhere they are left alone, and the training runs."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(work.words(tmp_path / "out"))))
    thread.start()
    thread.join()
    assert codes == [0]
    assert differing(tmp_path / "out", work.root / "whole") == 0


def test_an_interrupted_notebook(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`finetune` raises `KeyboardInterrupt`, after a checkpoint, and goes on when it is called again."""
    settings = dict(word.removeprefix("--").split("=", 1) for word in work.words(tmp_path / "out")[1:])
    with monkeypatch.context() as patch:
        patch.setattr(training, "Lines", at_step(4, lambda: os.kill(os.getpid(), signal.SIGINT)))
        with pytest.raises(KeyboardInterrupt):
            finetune(**settings)
    assert checkpoints.steps(tmp_path / "out/checkpoints/1-full")[-1].name == "checkpoint-4"
    assert finetune(**settings, resume_from_checkpoint=True).record["stages"][0]["steps"] == 10
    assert differing(tmp_path / "out", work.root / "whole") == 0


# --- A disk that is full ----------------------------------------------------------------------------------------------


def test_a_limit_on_files(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be written is one line and exit code 2, nothing half is left, and the run goes on afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(
        training, "Lines", at_step(6, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1])))
    )
    try:
        assert main(work.words(tmp_path / "out")) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = (line for line in said.splitlines() if line.startswith("error: "))
    assert line.startswith("error: The checkpoint cannot be written to ")
    assert "--resume" in line
    stage = tmp_path / "out/checkpoints/1-full"
    assert [path.name for path in checkpoints.steps(stage)] == ["checkpoint-3"]
    assert not (stage / checkpoints.WRITING).exists()
    monkeypatch.undo()
    assert main([*work.words(tmp_path / "out"), "--resume"]) == 0
    assert differing(tmp_path / "out", work.root / "whole") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("room", [0.6, 2.0, 8.0])
def test_a_full_disk(room: float, work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file system of so many sizes of a checkpoint: one line wherever it is full, and the same result later."""
    size = sum(path.stat().st_size for path in (work.root / "whole").rglob("*") if path.is_file()) * 3
    disk = tmp_path / "disk"
    disk.mkdir()
    small = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(size * room)}", "none", str(disk)], check=False)
    if small.returncode:
        pytest.skip("this machine mounts nothing")
    try:
        code = main(work.words(disk / "out"))
        said = capsys.readouterr().err
        if code:
            assert code == 2
            assert len(said.splitlines()) == 1
            assert "--resume" in said
        assert bool(code) == (room < 4)
        subprocess.run(["mount", "-o", f"remount,size={size * 20}", str(disk)], check=True)
        assert main([*work.words(disk / "out"), "--resume"]) == 0
        assert differing(disk / "out", work.root / "whole") == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_folders_that_cannot_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems flush files only (EINVAL): a checkpoint is written there all the same."""
    flush = os.fsync

    def files_only(number: int) -> None:
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(number)

    monkeypatch.setattr(os, "fsync", files_only)
    folder = sealed_step(tmp_path / "checkpoints/1-full", 1)
    assert set(sealed.unsealed(folder)) == {"best", "over"}


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    """A mistake in the code keeps its traceback."""
    with pytest.raises(RuntimeError, match="shapes"), checkpoints.writing(tmp_path):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(UserError, match="No space"), checkpoints.writing(tmp_path):
        raise OSError(28, "No space left on device")


# --- Folders and orders -----------------------------------------------------------------------------------------------


def sealed_step(stage: Path, step: int) -> Path:
    """A checkpoint as it stands on the disk."""
    with checkpoints.whole(stage / f"checkpoint-{step}", {"best": None, "over": False}) as begun:
        (begun / "file").write_text(str(step))
    return stage / f"checkpoint-{step}"


@pytest.mark.parametrize(
    ("most", "best", "left"),
    [(1, None, [40]), (1, 10, [10, 40]), (2, 10, [10, 40]), (3, 10, [10, 30, 40]), (None, 10, [10, 20, 30, 40])],
)
def test_rotation_keeps_the_newest_and_the_best(
    most: int | None, best: int | None, left: list[int], tmp_path: Path
) -> None:
    """By step, not by time or text."""
    stage = tmp_path / "checkpoints/1-full"
    for step in (40, 10, 30, 20):
        sealed_step(stage, step)
    checkpoints.rotate(stage, most, {stage / f"checkpoint-{best}"} if best else set())
    assert [path.name for path in checkpoints.steps(stage)] == [f"checkpoint-{step}" for step in left]


def test_a_folder_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    """What an exception leaves is what was there before."""
    folder = sealed_step(tmp_path / "checkpoints/1-full", 1)

    def interrupted() -> None:
        with checkpoints.whole(folder) as begun:
            (begun / "file").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (folder / "file").read_text() == "1"
    assert {path.name for path in folder.parent.iterdir()} <= {folder.name, checkpoints.WRITING}
    assert not list((folder.parent / checkpoints.WRITING).glob("*"))


class Noise(torch.utils.data.Dataset[Any]):
    """Rows that are random each time they are read."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int) -> torch.Tensor:
        return row + torch.rand(2)


def test_random_rows_can_be_read_again() -> None:
    """The same in each process and after any random numbers; others in another epoch, and for another seed."""
    rows = order.SeededRows(Noise(), 1, torch.stack)
    first = rows.__getitems__([0, 3])
    state = torch.get_rng_state()
    torch.rand(5)
    assert torch.equal(rows.__getitems__([0, 3]), first)
    torch.set_rng_state(state)
    rows.__getitems__([1])
    assert torch.equal(torch.get_rng_state(), state)
    later = rows.__getitems__([6, 9])  # the same rows in the next epoch
    assert torch.equal(later.floor(), first.floor())
    assert not torch.equal(later, first)
    assert not torch.equal(order.SeededRows(Noise(), 2, torch.stack).__getitems__([0, 3]), first)


def test_each_epoch_has_its_order() -> None:
    """From the seed and the epoch alone; every row once."""
    epoch = [0]
    orders = order.EpochOrder(50, 3, lambda: epoch[0], lambda g: torch.randperm(50, generator=g).tolist())
    first, again = list(orders), list(orders)
    epoch[0] = 2
    later = list(orders)
    assert first == again
    assert sorted(first) == list(range(50))
    assert sorted(later) == list(range(100, 150))
    assert [row - 100 for row in later] != first
