"""The tools that write, as functions of (inputs, goal, comm), and processes that run one of them and are killed half way.

``python -m tests.datasets.dying INPUTS GOALS TOOL-COUNT...`` forks a process for each TOOL-COUNT, which writes to the folder of this
name in GOALS, and kills itself (SIGKILL) before a file gets its name, or the work folder goes, for the COUNTth time (from 0): between
these moments nothing that counts as done changes on disk.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import h5py
import numpy as np

from hpcml.comm import simulated
from hpcml.data import gathering
from hpcml.data.importers import Options, csvfile, ranges
from hpcml.data.layout import parse_layout
from hpcml.datasets import rewriting
from hpcml.datasets.dealing import open_all
from hpcml.datasets.importing import import_sources
from hpcml.datasets.rewriting import Wish, reshard, split
from tests.datasets.conftest import quiet

SMALL = (
    (csvfile, "BATCH", 16),
    (ranges, "RANGE_BYTES", 1000),
    (gathering, "BLOCK_BYTES", 100),
    (rewriting, "UNIT_BYTES", 900),
    (rewriting, "BUNDLE_FILES", 1),
)
"""Constants that make little data go the ways of much: (module, name, value)."""

SHARES = {"train": 0.7, "validation": 0.2, "test": 0.1}


def write_inputs(folder):
    """Write tables, arrays and shards of 120 rows each."""
    values = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    kinds = np.arange(120) % 3
    for i, (start, stop) in enumerate(((0, 50), (50, 53), (53, 120))):
        rows = zip(values[start:stop].tolist(), kinds[start:stop], strict=True)
        lines = [f'{a!r},"{b!r}",{c!r},"{["no", "yes", "well, no"][kind]}"' for (a, b, c), kind in rows]
        (folder / f"t-{i}.csv").write_text("\n".join(["a,b,c,kind", *lines, ""]))
        np.save(folder / f"x-{i}.npy", values[start:stop])
        np.save(folder / f"y-{i}.npy", kinds[start:stop])
        with h5py.File(folder / f"a-{i}.h5", "w") as file:
            file.create_dataset("x", data=values[start:stop], chunks=(min(stop - start, 10), 3), compression="gzip")
            file["y"] = kinds[start:stop]
            file["name"] = np.array([f"row {n}" for n in range(start, stop)], object)


def tables(inputs, goal, comm):
    """Import CSV."""
    wish = Wish(rows=25, layout=parse_layout("shuffle+gzip"))
    return import_sources([f"{inputs}/t-*.csv"], Options(label="kind"), goal, wish, comm, quiet)


def arrays(inputs, goal, comm):
    """Import NPY."""
    return import_sources([f"x={inputs}/x-*.npy", f"y={inputs}/y-*.npy"], Options(), goal, Wish(rows=25), comm, quiet)


def copied(inputs, goal, comm):
    """Reshard in the same order."""
    return reshard(open_all(f"{inputs}/a-*.h5", None, comm), goal, Wish(files=5), comm, quiet)


def mixed(inputs, goal, comm):
    """Reshard in a global shuffle."""
    return reshard(open_all(f"{inputs}/a-*.h5", None, comm), goal, Wish(rows=25, seed=3), comm, quiet)


def parted(inputs, goal, comm):
    """Split, stratified."""
    return split(open_all(f"{inputs}/a-*.h5", None, comm), goal, SHARES, "y", None, Wish(rows=30), 5, comm, quiet)


TOOLS = {tool.__name__: tool for tool in (tables, arrays, copied, mixed, parted)}


def die(tool, count, inputs, goal):
    """Run a tool on one rank until the moment of the kill."""
    left = count

    def mortal(function):
        def called(*args, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return called

    os.replace, shutil.rmtree = mortal(os.replace), mortal(shutil.rmtree)
    simulated.run(1, lambda comm: TOOLS[tool](inputs, goal, comm))


def main(inputs, goals, *cases):
    """Let a process die for each case; one that lives on is an error."""
    for module, constant, value in SMALL:
        setattr(module, constant, value)
    for case in cases:
        tool, _, count = case.partition("-")
        child = os.fork()
        if not child:
            die(tool, int(count), Path(inputs), Path(goals) / case)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"{case} ended with {status}, not by SIGKILL")


if __name__ == "__main__":
    main(*sys.argv[1:])
