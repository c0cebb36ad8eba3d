"""Method `auto`: the freeze depth of a run, searched before it trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hf_ft.experiments.comparison_settings import SECTIONS_OF_TRIALS
from hf_ft.experiments.depth_settings import read_depth_settings
from hf_ft.experiments.freeze_depth import search
from hf_ft.records import FreezeDepthChoice
from hf_ft.settings import HUB_OPTIONS, Settings, build

NOT_SEARCHED = {"method", "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "push_to_hub", *HUB_OPTIONS}
"""Settings of a run that its search does not have, or sets itself."""


def resolve(settings: Settings) -> tuple[Settings, FreezeDepthChoice]:
    """Search the freeze depth for a run with method `auto`, with the run's seed.

    The search stays in the folder `depth` of the result, where a resumed run finds it.

    Returns:
        The settings of the run with the chosen method, and how it was chosen.
    """
    out = Path(settings.training["output_dir"]).expanduser()
    values = {**vars(settings.config), **settings.training}
    explicit = {name: values[name] for name in settings.config.explicit - NOT_SEARCHED}
    folder = out / "depth"
    overwrite = settings.config.overwrite_output_dir and not settings.training.get("resume_from_checkpoint")
    searched = {name: value for name, value in explicit.items() if name != "calibrate"}
    layer = {**searched, "output_dir": str(folder), "overwrite_output_dir": overwrite, "seeds": [values["seed"]]}
    record = search(read_depth_settings([("the settings of method auto", layer)]))
    choice, cost = record.choice, record.cost
    assert choice is not None
    assert cost is not None
    found = build(("the run", {**explicit, "method": choice.method}), sections=SECTIONS_OF_TRIALS)
    kept = {name: settings.training[name] for name in NOT_SEARCHED if name in settings.training}
    asked = settings.config  # a resumed run compares what the user asked for, not what was chosen
    config = replace(
        found.config,
        explicit=found.config.explicit | (asked.explicit & NOT_SEARCHED),
        overwrite_output_dir=asked.overwrite_output_dir,
        must_match=asked.must_match,
    )
    how = FreezeDepthChoice(
        by="hf-ft depth",
        blocks=record.blocks,
        frozen=choice.frozen,
        mean=choice.mean,
        low=choice.low,
        high=choice.high,
        alternative=choice.alternative,
        cost=cost,
    )
    return Settings(config, found.training | kept), how
