"""How many layers to freeze: train at every freeze depth on your own data; scores, spread over seeds, seconds.

    python recipes/how_many_layers.py --dataset D [--seeds N] [--output_dir OUT]

Trains the head alone, then the last block as well, and so on up to the whole network, each with several seeds, and
plots score and seconds against the number of frozen blocks. Frozen layers run once for all trials. `hf-ft depth`
answers the same question without training every depth to the end.
"""

import sys

from hf_ft.cli.app import run
from hf_ft.experiments.comparison import run_comparison
from hf_ft.experiments.comparison_settings import read_comparison_settings
from hf_ft.settings.parse import Command, command_line

SETTINGS = {
    "task": "image_classification",
    "model": "microsoft/resnet-18",
    "augment": "none",  # features of images that change in each epoch could not be cached
    "methods": "depths",
    "seeds": 2,
    "output_dir": "runs/how_many_layers",
}


def main(argv: list[str] | None = None) -> None:
    """Compare all freeze depths; table and figures are in the output folder."""
    command = Command({"seeds": ("N", "number of seeds, or a list: `0,7` (default: 2)")}, without=("method", "plan"))
    layers = command_line(argv, __doc__ or "", command=command)
    run_comparison(read_comparison_settings([("the recipe", SETTINGS), *layers]))


if __name__ == "__main__":
    sys.exit(run(main))
