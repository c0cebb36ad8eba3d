"""`python -m tests.hub [--port N] [--user NAME]`: a local Hub to try things against, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import threading

from tests.hub.server import LocalHub


def main() -> None:
    """Serve, and say how to use it."""
    parser = argparse.ArgumentParser(prog="python -m tests.hub", description="A local Hub; what it holds is in memory.")
    parser.add_argument("--port", type=int, default=0, help="port on loopback; 0 for a free one (default)")
    parser.add_argument("--user", default="me", help="whose token is printed (default: me)")
    options = parser.parse_args()
    with LocalHub(options.port) as hub:
        print(f"export HF_ENDPOINT={hub.url} HF_TOKEN={hub.token(options.user)} HF_HUB_DISABLE_XET=1", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
