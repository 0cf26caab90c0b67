"""Where ``lexiscope`` begins: before the slow imports, so that a server can be stopped meanwhile.

Without a handler a process with the number 1, as in a container, does not hear SIGTERM at all.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run one command; returns the exit status."""
    if sys.argv[1:2] == ["serve"]:
        # Nothing is under way yet that could be left half done.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from app.cli import main as cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
