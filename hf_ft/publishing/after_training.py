"""`--push_to_hub`: checked before the training, done at its end, by the rules of `hf-ft push`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_ft.publishing.contents import read_contents
from hf_ft.publishing.destination import Destination
from hf_ft.publishing.publication import show
from hf_ft.publishing.upload import Publication, Upload
from hf_ft.storage import is_first_process


def destination_of(training: Mapping[str, Any]) -> Destination | None:
    """Return where the result of a run goes, by the fields of `TrainingArguments`; None without `push_to_hub`.

    As in `Trainer`, the repository is called like the output folder unless `hub_model_id` says otherwise.
    """
    if not training.get("push_to_hub"):
        return None
    out = Path(training["output_dir"]).expanduser()
    repo_id, revision = training.get("hub_model_id") or out.absolute().name, training.get("hub_revision")
    private, token = training.get("hub_private_repo") is not False, training.get("hub_token")
    words = ["hf-ft", "push", str(out), "--repo_id", repo_id]
    words += ["--revision", revision] if revision else []
    words += [] if private else ["--public"]
    command = f"{'HF_TOKEN=... ' if token else ''}{shlex.join(words)}"
    return Destination(repo_id, private, revision, token=token, command=command)


def check_publishing(training: Mapping[str, Any], task: str) -> None:
    """Check before a training that its result can be published: the token, the rights, what the repository holds.

    Args:
        training: The fields of `TrainingArguments`.
        task: The task of the run.

    Raises:
        UserError: It cannot.
    """
    destination = destination_of(training)
    if destination is None or not is_first_process():
        return
    destination.check()
    upload = Upload(destination, "The result could not be published")
    upload.prepare(task)
    kind = "private" if destination.private else "public"
    print(f"publish  to {upload.repo_id} on the Hub ({kind}), once the run has ended", flush=True)


def publish_finished(folder: Path, destination: Destination) -> Publication:
    """Publish the result of a run that has just ended.

    Raises:
        UserError: It cannot be published; says the command that repeats it.
    """
    contents = read_contents(folder, destination.repo_id, token=destination.token)
    show(contents, destination)
    return Upload(destination).run(contents)
