"""``python -m hpcml``: the same as the console script ``hpcml``."""

from __future__ import annotations

import sys

from hpcml.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
