"""The autotuner of a run: its decisions are remembered in the folder of the feature cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from transformers import TrainingArguments

from hf_ft.autotune import Autotuner
from hf_ft.environment import print_on_main
from hf_ft.feature_cache.eviction import cache_root
from hf_ft.settings import Config


def make_tuner(
    config: Config,
    args: TrainingArguments,
    pinned: Mapping[str, Mapping[str, str]] | None = None,
    say: Callable[[str], None] | None = None,
) -> Autotuner | None:
    """Return the autotuner of a run; None if `autotune` is `off`, or the run does not own its model's memory and form.

    Several processes would have to agree on what each of them measures, and `torch_compile`, FSDP and DeepSpeed choose
    forms of their own.

    Args:
        pinned: What was decided when an interrupted run began.
        say: Prints a line; by default on the main process.
    """
    alone = args.world_size <= 1 and args.n_gpu <= 1
    if config.autotune == "off" or not alone or args.torch_compile or args.deepspeed or args.fsdp:
        return None
    return Autotuner(cache_root(config), say or (lambda line: print_on_main(line, args)), pinned or {})
