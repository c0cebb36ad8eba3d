"""Fine-tune a text classifier: MiniLM on a folder of texts with one label each, or any other model and data.

python recipes/text_classification.py --model M --dataset D --method K --output_dir OUT
"""

import sys

from hf_ft import load_model, load_splits, make_plan, parse, save, score, train
from hf_ft.cli import run

CONFIG = {
    "task": "text_classification",
    "model": "sentence-transformers/all-MiniLM-L6-v2",
    "dataset": "fancyzhx/ag_news",
    "method": "lp_ft",
}
TRAINING = {"per_device_train_batch_size": 32, "seed": 0, "output_dir": "runs/text_classification"}


def main(argv: list[str] | None = None) -> None:
    """Each line returns a plain object: to change a step, replace its line."""
    config, args = parse(CONFIG, TRAINING, argv, __doc__)
    splits = load_splits(config, args.seed)
    model, processor, loaded = load_model(config, splits.labels, splits.problem_type, args.seed)
    plan = make_plan(config, args, loaded.groups, len(splits.train))
    trained = train(model, processor, splits, plan, config, args, loaded)
    save(trained, score(trained))


if __name__ == "__main__":
    sys.exit(run(main))
