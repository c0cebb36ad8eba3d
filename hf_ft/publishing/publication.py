"""Publishing a result on the Hub: what will be published is shown, checked and searched, and then uploaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hf_ft.environment import print_table
from hf_ft.errors import UserError, shorten
from hf_ft.publishing.contents import Contents, read_contents
from hf_ft.publishing.destination import Destination
from hf_ft.publishing.leaks import ALLOWABLE
from hf_ft.publishing.upload import Publication, Upload
from hf_ft.storage import LOCAL


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    commit_message: str | None = None,
    adapter: bool = False,
    overwrite: bool = False,
    allow: Sequence[str] = (),
    dry_run: bool = False,
    token: str | None = None,
) -> Publication:
    """Publish the files of a finished run on the Hub in one commit, and nothing else; prints what is done.

    Args:
        folder: The result folder.
        repo_id: `NAME` or `USER/NAME`; made if it does not exist.
        private: Whether only you may read it. A repository that exists keeps its visibility, and a public one is only
            written to with `private=False`.
        revision: The branch, made from `main` if it does not exist.
        create_pr: Open a pull request instead of writing to the branch.
        tag: A tag for the commit.
        commit_message: The title of the commit.
        adapter: Publish the adapter alone, as a PEFT repository that names its base model.
        overwrite: Replace what the repository holds, also if it is not this model.
        allow: Kinds of finds that may be published: `email`, `host`, `path`, `user`.
        dry_run: Run all checks on this machine without asking the Hub.
        token: The token of the Hub (default: that of the environment or of `hf auth login`).

    Raises:
        UserError: The run is not finished, files were changed or hold secrets, names or local paths, or the Hub refuses
            the upload. Nothing was published then, unless the message says so.

    Example:
        >>> publication = hf_ft.push("beans", "me/beans", tag="v1")  # doctest: +SKIP
        >>> publication.url  # doctest: +SKIP
        'https://huggingface.co/me/beans'
    """
    destination = Destination(repo_id, private, revision, create_pr, tag, commit_message, overwrite, token)
    destination.check()
    if unknown := [kind for kind in allow if kind not in ALLOWABLE]:
        raise UserError(f"Unknown kind '{unknown[0]}'.", option="allow", value=unknown[0], choices=ALLOWABLE)
    contents = read_contents(Path(folder).expanduser(), repo_id, adapter, allow, token)
    show(contents, destination)
    if dry_run:
        print("Dry run: nothing was published.")
        return Publication(repo_id, private, tuple(item.name for item in contents.items))
    return Upload(destination).run(contents)


def show(contents: Contents, destination: Destination) -> None:
    """Print the plan: where to, which files, and what stays here."""
    kind = "private" if destination.private else "public"
    print(f"To {destination.repo_id} ({kind}): {len(contents.items)} files, {readable_size(contents.size)}\n")
    edited = any(item.edited for item in contents.items)
    notes = ["edited since the run" if item.edited else "" for item in contents.items]
    rows = [
        (item.name, readable_size(item.size), *([note] if edited else []))
        for item, note in zip(contents.items, notes, strict=True)
    ]
    print_table(("file", "size", *([""] if edited else [])), rows, right=(1,))
    print()
    if contents.local:
        hidden = [name for name in contents.local if name.startswith(f"{LOCAL}/")]
        others = [name for name in contents.local if name not in hidden]
        print(f"Not published: {shorten([*others, *([f'{LOCAL}/'] if hidden else [])], 6)}")
    if contents.allowed:
        print(f"Published because of --allow: {shorten(contents.allowed, 8)}")
    sys.stdout.flush()  # before an upload that may take long


def readable_size(size: int) -> str:
    """Return a number of bytes as a reader takes it in."""
    for unit, digits in (("bytes", 0), ("kB", 1), ("MB", 1)):
        if size < 1000:
            return f"{size:.{digits}f} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.2f} GB"
