"""How many layers to freeze: every depth trained on your own data, with its score, its spread and its seconds.

    python recipes/how_many_layers.py --dataset D [--task T --model M] [--seeds N] [--output_dir OUT]

Trains the head alone, then the last block with it, and so on up to the whole network, each with several seeds, and
draws score and seconds against the number of frozen blocks. What is frozen runs once for all of them. `hf-ft depth`
answers the same question without training all depths to the end.
"""

import sys

from hf_ft.cli.app import run
from hf_ft.experiments.comparison import run_comparison
from hf_ft.experiments.comparison_settings import read_comparison_settings
from hf_ft.settings.parse import Command, command_line

SETTINGS = {
    "task": "image_classification",
    "model": "microsoft/resnet-18",
    "augment": "none",  # other images in each epoch could not be kept
    "methods": "depths",
    "seeds": 2,
    "output_dir": "runs/how_many_layers",
}


def main(argv: list[str] | None = None) -> None:
    """Compare all depths; table and pictures are in the output folder."""
    command = Command({"seeds": ("N", "how many seeds, or which: `0,7` (default: 2)")}, without=("method", "plan"))
    layers = command_line(argv, __doc__ or "", command=command)
    run_comparison(read_comparison_settings([("the recipe", SETTINGS), *layers]))


if __name__ == "__main__":
    sys.exit(run(main))
