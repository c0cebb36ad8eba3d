"""How much faster hf_ft trains an image classifier with frozen layers than a plain Trainer does.

python benchmarks/frozen_images.py --dataset DATASET [--model MODEL] [--frozen head 10]

Without --model it is a vision transformer of the size of ViT-S with random weights: right for seconds and memory, while
its accuracy says nothing. `--model builtin` is the model that ships with hf_ft. Pictures are decoded and resized by the
model's own processor whenever they are read, on both sides, without augmentation.
"""

import frozen
import side_by_side

QUICK = {"max_train_examples": 48, "max_eval_examples": 48, "num_train_epochs": 3, "seeds": [0]}


def main() -> None:
    """Compare, for each number of frozen blocks."""
    parser = side_by_side.parser(__doc__ or "", max_train_examples=200)
    parser.add_argument(
        "--frozen", nargs="+", help="`head` (all blocks) or how many (default: head, and all blocks but two)"
    )
    parser.add_argument("--image_size", type=int, default=224, help="of the random model (default: 224)")
    options = side_by_side.parse(parser, QUICK)
    with side_by_side.Benchmark(__file__, options, "image_classification") as benchmark:
        if options.model is None:
            benchmark.random_vit(options.image_size)
        frozen.compare(benchmark, options.frozen)


if __name__ == "__main__":
    main()
