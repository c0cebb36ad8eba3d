"""Reading and writing of records, with a schema version and one error message per defect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hf_ft.errors import UserError
from hf_ft.records.json_codec import Malformed, from_json, to_json
from hf_ft.storage import json_text, output_folder, read_json


@dataclass
class Record:
    """The common fields of all records: schema version, version of hf_ft, and date.

    Subclasses set `FILE` (its name in the output folder), `TITLE` (the name of the result in messages), `KIND` (the
    kind of output folder, see `hf_ft.storage.kind_of`) and `SCHEMA`. Increase `SCHEMA` when a field changes its name,
    type or meaning.
    """

    FILE: ClassVar[str]
    TITLE: ClassVar[str]
    KIND: ClassVar[str]
    SCHEMA: ClassVar[int]

    schema_version: int
    hf_ft: str
    date: str

    @property
    def finished(self) -> bool:
        """Whether the record is complete; experiments write theirs while they run."""
        return True

    def identity(self) -> dict[str, tuple[Any, str]]:
        """Return what two records must share to be one experiment: name -> value to compare, and how to show it."""
        return {}

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the record file."""
        found: dict[str, Any] = to_json(self)
        return found


R = TypeVar("R", bound=Record)


def write_record(folder: Path, record: Record) -> None:
    """Write a record into its output folder atomically, and list it in the folder's manifest."""
    output_folder.write(folder, record.FILE, json_text(to_json(record)))


def read_record(folder: Path, kind: type[R]) -> R:
    """Return the record of a result folder.

    Args:
        folder: The output folder.
        kind: Which record to read, for example `RunRecord`.

    Raises:
        UserError: The file is missing, damaged or another kind of file, or its schema version is not `kind.SCHEMA`.
    """
    path = folder / kind.FILE
    try:
        content = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} holds no finished {kind.TITLE} ({kind.FILE} is missing).",
            hint=f"Pass the --output_dir of a {kind.TITLE}.",
        ) from None
    except (OSError, ValueError) as error:
        raise _damaged(path, kind, _one_line(error)) from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != kind.SCHEMA:
        known = isinstance(version, int) and not isinstance(version, bool)
        found = f"has schema version {version}" if known else "has no schema version"
        raise UserError(
            f"{path} is not a record of a {kind.TITLE} that this version can read: it {found}, and schema version "
            f"{kind.SCHEMA} is supported.",
            value=version,
            hint="Read it with the hf_ft that wrote it, or run the command again in another --output_dir.",
        )
    try:
        return from_json(kind, content)
    except Malformed as error:
        raise _damaged(path, kind, str(error)) from None


def read_finished(folder: Path, kind: type[R]) -> R:
    """Return the record of a finished result.

    Raises:
        UserError: As `read_record`, or the experiment was interrupted.
    """
    record = read_record(folder, kind)
    if not record.finished:
        raise UserError(f"The {kind.TITLE} in {folder} has not finished.", hint="Run the same command again.")
    return record


@contextmanager
def drawing(folder: Path, kind: type[Record]) -> Iterator[None]:
    """Report a record as damaged if the block cannot render its values, for example after it was edited by hand.

    Raises:
        UserError: The block raised an error that an invalid value causes.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise _damaged(folder / kind.FILE, kind, f"{type(error).__name__}: {_one_line(error)}") from error


def _damaged(path: Path, kind: type[Record], why: str) -> UserError:
    return UserError(f"{path} is not a valid record of a {kind.TITLE}: {why}.", hint="Run the command again.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


@dataclass
class Machine:
    """The machine that a result was computed on."""

    device: str
    processor: str
    cores: int | None
    processes: int
    python: str
    system: str


@dataclass
class ScoreRecord:
    """A metric on `n` examples, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


Scores = dict[str, ScoreRecord]
"""Metric -> score."""


@dataclass
class ModelRecord:
    """The source model: its origin, the hash of its weights, its size.

    `name` is the Hub id, `builtin:NAME` or the last part of a local path; `digest` is the hash of the weights. `origin`
    says whose weights they are where the name does not. `licence` is theirs and `languages` are those of the model, as
    its card says, where it does; `licence_name` and `licence_link` describe a licence that the Hub has no name for.
    """

    name: str
    hub_id: str | None
    commit: str | None
    digest: str | None
    class_name: str
    parameters: int
    notes: list[str] = field(default_factory=list)
    origin: str | None = None
    licence: str | None = None
    licence_name: str | None = None
    licence_link: str | None = None
    languages: list[str] = field(default_factory=list)


@dataclass
class TruncationRecord:
    """Texts of a split that exceed `limit` tokens: `examples` of `of`, losing `lost` of `tokens` tokens.

    `long_text` is how they are read: by `head_tail` their first `head` tokens and their last ones, by `windows` all of
    them, in so many `windows` of which neighbours share `overlap` tokens.
    """

    split: str
    examples: int
    of: int
    lost: int
    tokens: int
    limit: int
    long_text: str = "truncate"
    head: int = 0
    windows: int = 0
    overlap: int = 0


@dataclass
class DuplicatesRecord:
    """Number of examples of `split` that also occur in `of`, and how many of them only with another label."""

    split: str
    of: str
    examples: int
    other_label: int


@dataclass
class NumbersRecord:
    """The numbers that examples of a split have for a label: the smallest, mean, largest, and standard deviation."""

    smallest: float
    mean: float
    largest: float
    deviation: float


@dataclass
class DataRecord:
    """The data set: name, labels, sizes of the splits, and a fingerprint of the content.

    `config` and `revision` (a commit) are those of a data set on the Hub, `languages` and `licence` what its card says.
    `source_splits` are the names that splits have there; a validation split that was held out has none.
    `counts[split][label]` are examples (words, for tags) with a label, `numbers[split]` sums numbers up.
    """

    name: str
    hub_id: str | None
    problem_type: str
    predicts: str
    labels: list[str]
    sizes: dict[str, int]
    fingerprint: str
    inputs: list[str]
    truncation: list[TruncationRecord]
    duplicates: list[DuplicatesRecord]
    notes: list[str]
    config: str | None = None
    revision: str | None = None
    source_splits: dict[str, str] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    numbers: dict[str, NumbersRecord] = field(default_factory=dict)
    languages: list[str] = field(default_factory=list)
    licence: str | None = None
