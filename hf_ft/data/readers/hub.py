"""Data sets on the Hub."""

from __future__ import annotations

import re

import datasets

from hf_ft.data.readers.raw_split import RawSplit, raw_splits
from hf_ft.errors import UserError, root_cause, split_argument
from hf_ft.settings import DataSettings

# Asked for local files, too, `load_dataset` counts a download by a request to a cloud host; read when it is called.
datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False

COMMIT = re.compile(r"[0-9a-f]{40}")


def read_hub(config: DataSettings) -> dict[str, RawSplit]:
    """The splits of a data set on the Hub, `id` or `id:config`.

    Raises:
        UserError: it cannot be loaded.
    """
    name, subset = split_argument(config.dataset)
    try:  # the steps of `load_dataset`, which does not say which commit it loaded
        builder = datasets.load_dataset_builder(name, subset, revision=config.dataset_revision)
        builder.download_and_prepare()
        loaded = builder.as_dataset()
    except Exception as error:  # whatever the network, the Hub's client and the builders raise
        raise UserError(
            f"No folder or file is called '{config.dataset}', and the data set '{name}' cannot be loaded from the Hub: "
            f"{root_cause(error)}.",
            option="dataset",
            value=config.dataset,
            hint="Check the name (`id` or `id:config`) and the network, or pass a folder or file.",
        ) from error
    return raw_splits(loaded, builder.hash if COMMIT.fullmatch(builder.hash or "") else None)
