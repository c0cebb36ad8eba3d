"""Publish a trained model: shows what will go to the Hub, refuses tokens and paths of this machine, adds one commit.

python push_to_hub.py OUT --repo_id me/name [--public] [--dry_run]
"""

import sys

from hf_ft.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["push", *sys.argv[1:]]))
