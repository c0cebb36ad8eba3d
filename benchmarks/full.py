"""Whether hf_ft costs anything where nothing is frozen: `full` and plain Trainers.

python benchmarks/full.py --dataset DATASET [--model MODEL] [--task image_classification]

Texts: against a plain Trainer with dynamic padding (the tutorials), with batches of similar length
(train_sampling_strategy="group_by_length", what hf_ft does by default), and with all texts padded to 128 tokens
(run_glue's default). Images: against one plain Trainer, without augmentation on either side; without --model on a
vision transformer of the size of ViT-S with random weights.
"""

import side_by_side
from side_by_side import Variant

QUICK = {
    "text_classification": {"max_train_examples": 300, "max_eval_examples": 200, "num_train_epochs": 1, "seeds": [0]},
    "image_classification": {"max_train_examples": 32, "max_eval_examples": 32, "num_train_epochs": 1, "seeds": [0]},
}
HF_FT = Variant("hf_ft", "hf_ft")
PLAIN = {
    "text_classification": (
        Variant("plain, dynamic padding", "plain"),
        Variant("plain, group_by_length", "plain", {"arguments": {"train_sampling_strategy": "group_by_length"}}),
        Variant("plain, padded to 128", "plain", {"padding": 128}),
    ),
    "image_classification": (Variant("plain Trainer", "plain"),),
}


def main() -> None:
    """Compare with nothing frozen."""
    parser = side_by_side.parser(__doc__ or "", num_train_epochs=3)
    parser.add_argument("--task", choices=tuple(PLAIN), default="text_classification")
    parser.add_argument("--image_size", type=int, default=224, help="of the random image model (default: 224)")
    task = parser.parse_known_args()[0].task  # sizes follow from it
    options = side_by_side.parse(parser, QUICK[task])
    if task == "text_classification":
        options.model = options.model or side_by_side.minilm()
    with side_by_side.Benchmark(__file__, options, task) as benchmark:
        if options.model is None:
            benchmark.random_vit(options.image_size)
        plain = PLAIN[task]
        benchmark.compare(
            "nothing frozen", [HF_FT, *plain], "none", {variant.name: (variant.name, HF_FT.name) for variant in plain}
        )


if __name__ == "__main__":
    main()
