"""Fine-tune a token classifier: DistilBERT on names in Wikipedia, or any other model and data.

    python recipes/token_classification.py --model M --dataset D --method K \\
        --output_dir OUT
"""

import sys

import hf_ft
from hf_ft.cli.app import run

CONFIG = {
    "task": "token_classification",
    "model": "distilbert/distilbert-base-cased",
    "dataset": "unimelb-nlp/wikiann:en",
    "method": "lp_ft",
}
TRAINING = {"per_device_train_batch_size": 32, "seed": 0, "output_dir": "runs/token_classification"}


def main(argv: list[str] | None = None) -> None:
    """One line per step, each returning a plain object: swap any step for your own."""
    config, args = hf_ft.parse(CONFIG, TRAINING, argv, __doc__)
    splits = hf_ft.load_splits(config, args.seed)
    model, processor, loaded = hf_ft.load_model(config, splits.labels, splits.problem_type, args.seed)
    plan = hf_ft.make_plan(config, args, loaded.groups, len(splits.train))
    trained = hf_ft.train(model, processor, splits, plan, config, args, loaded)
    hf_ft.save(trained, hf_ft.score(trained))


if __name__ == "__main__":
    sys.exit(run(main))
