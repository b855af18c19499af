"""Where compiled functions are kept from one process to the next."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any


def keep_compiled(numba: Any) -> bool:
    """Return whether numba keeps what it compiles: where it does so by itself, else in this user's folder among the temporary files.

    By itself it takes $NUMBA_CACHE_DIR, the folder of the source, or the user's cache in the home; on a cluster's nodes all of them may
    be read-only, and numba would refuse to compile at all.
    """
    if _is_kept(numba):
        return True
    folder = private_folder("hpcml-numba")
    if folder is not None:
        numba.config.CACHE_DIR = str(folder)
    return folder is not None and _is_kept(numba)


def private_folder(name: str) -> Path | None:
    """Return a folder among the temporary files that this user alone can write to, made if need be; None where there is none.

    What is kept there will be run, so a folder that somebody else made, or could write to, or a link, is not taken.
    """
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if own else None


def _is_kept(numba: Any) -> bool:
    try:
        numba.njit(cache=True)(_is_kept)  # compiles nothing: it only looks for a folder that it can write to
    except RuntimeError:
        return False
    return True
