"""What the feature cache saves where adapters are in the top blocks alone: `lora@last_n:N` and PEFT in a plain Trainer.

python benchmarks/adapters.py --dataset DATASET [--method lora@last_n:2] [--model MODEL] [--task image_classification]

Both sides have adapters of PEFT on the same layers with the same configuration, head, rate, schedule, batch size and
epochs. The plain side runs the frozen blocks in every epoch.
"""

import side_by_side
from side_by_side import Variant

QUICK = {"max_train_examples": 200, "max_eval_examples": 200, "num_train_epochs": 3, "seeds": [0]}
PLAIN = Variant("plain Trainer with PEFT", "plain")
LIVE = Variant("hf_ft, live", "hf_ft", {"cache": "off"})
CACHED = Variant("hf_ft, cached", "hf_ft", {"cache": "on"})


def main() -> None:
    """Compare with and without the cache."""
    parser = side_by_side.parser(__doc__ or "")
    parser.add_argument("--task", choices=("text_classification", "image_classification"), default=None)
    parser.add_argument("--method", default="lora@last_n:2", help="(default: %(default)s)")
    options = side_by_side.parse(parser, QUICK)
    task = options.task or "text_classification"
    if task == "text_classification":
        options.model = options.model or side_by_side.minilm()
    with side_by_side.Benchmark(__file__, options, task, adapters=options.method) as benchmark:
        if options.model is None:
            benchmark.random_vit(224)
        pairs = {variant.name: (PLAIN.name, variant.name) for variant in (LIVE, CACHED)}
        benchmark.compare(options.method, [PLAIN, LIVE, CACHED], options.method, pairs)


if __name__ == "__main__":
    main()
