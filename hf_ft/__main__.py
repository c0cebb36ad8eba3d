"""`python -m hf_ft` is the command `hf-ft`."""

import sys

from hf_ft.cli import main

sys.exit(main())
