"""How much faster hf_ft trains a text classifier with frozen layers than a plain Trainer does.

python benchmarks/frozen_text.py --dataset DATASET [--model MODEL] [--frozen head 4 5]
"""

import frozen
import side_by_side

QUICK = {
    "max_train_examples": 300,
    "max_eval_examples": 200,
    "num_train_epochs": 5,
    "seeds": [0],
    "frozen": ["head", "4"],
}


def main() -> None:
    """Compare, for each number of frozen blocks."""
    parser = side_by_side.parser(__doc__ or "")
    parser.add_argument(
        "--frozen", nargs="+", default=["head", "4", "5"], help="`head` (all blocks) or how many (default: head 4 5)"
    )
    options = side_by_side.parse(parser, QUICK)
    options.model = options.model or side_by_side.minilm()
    with side_by_side.Benchmark(__file__, options, "text_classification") as benchmark:
        frozen.compare(benchmark, options.frozen)


if __name__ == "__main__":
    main()
