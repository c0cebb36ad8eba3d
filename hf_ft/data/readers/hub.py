"""Data sets on the Hub."""

from __future__ import annotations

import re

import datasets

from hf_ft.data.readers.raw_split import RawSplit, raw_splits
from hf_ft.environment import hub_error, pinned_revision
from hf_ft.errors import UserError, root_cause, split_argument
from hf_ft.settings import DataSettings

# Asked for local files, too, `load_dataset` counts a download by a request to a cloud host; read when it is called.
datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False

COMMIT = re.compile(r"[0-9a-f]{40}")


def read_hub(config: DataSettings) -> dict[str, RawSplit]:
    """The splits of a data set on the Hub, `id` or `id:config`.

    Raises:
        UserError: no such data set or revision, no access to it, no connection, or it cannot be read.
    """
    name, subset = split_argument(config.dataset)
    commit = pinned_revision(name, config.dataset_revision, "dataset")
    try:  # the steps of `load_dataset`, which does not say which commit it loaded: without a connection, the last one
        builder = datasets.load_dataset_builder(name, subset, revision=commit)
        builder.download_and_prepare()
        loaded = builder.as_dataset()
    except Exception as error:  # whatever the network, the Hub's client and the builders raise
        raise hub_error(error, name, config.dataset_revision, "dataset") or UserError(
            f"No folder or file is called '{config.dataset}', and the data set '{name}' cannot be loaded from the Hub: "
            f"{root_cause(error)}.",
            option="dataset",
            value=config.dataset,
            hint="Check the name (`id` or `id:config`) and the network, or pass a folder or file.",
        ) from error
    if COMMIT.fullmatch(builder.hash or "") and builder.hash != commit:
        raise UserError(
            f"The cache has the data set '{name}' at commit {builder.hash[:12]}, not {commit[:12]}, and there is no "
            "connection to the Hub.",
            option="dataset_revision",
            value=config.dataset_revision,
            hint=f"Connect once, or set --dataset_revision {builder.hash}.",
        )
    return raw_splits(loaded, commit)
