"""Publish a trained model: shows what would go to the Hub, and refuses tokens and paths of this machine.

python push_to_hub.py OUT --repo_id me/name [--private] [--dry_run]
"""

import sys

from hf_ft.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["push", *sys.argv[1:]]))
