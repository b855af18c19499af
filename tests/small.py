"""A small job for tests of whole runs: three shards of unequal length and a TOML file, in a folder of their own."""

from __future__ import annotations

import json
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcml import Hook, Trainer
from tests.mpirun import Result
from tests.standing import hpcml

LENGTHS = (20, 25, 16)
WIDTH, CLASSES = 4, 3

TOML = """[data]
train = "train-*.h5"
test = "test-*.h5"
[model]
name = "mlp"
hidden = [5]
[train]
epochs = 2
batch = 16
virtual_workers = 4
seed = 7
[optimizer]
rate = 0.1
momentum = 0.9
"""


class Job:
    """A folder with shards and job.toml, and runs of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "job.toml"
        self.config.write_text(TOML)
        write_shards(folder, *LENGTHS)
        write_shard(folder / "test-0.h5", *rows(21, seed=2))

    def shard(self, number: int) -> Path:
        """The path of a training shard."""
        return self.folder / f"train-{number}.h5"

    def train(self, ranks: int, run: str | Path = "run", *changes: str, options: tuple[str, ...] = (), **how: Any) -> Result:
        """Run `hpcml train job.toml --run RUN` with changes such as "train.epochs=5"."""
        words = [word for change in changes for word in ("--set", change)]
        return self.hpcml(ranks, "train", self.config, "--run", run, *words, *options, **how)

    def hpcml(self, ranks: int, *words: Any, **how: Any) -> Result:
        """Run `hpcml ...` in the folder on so many ranks of a world that stands."""
        return hpcml(ranks, *words, cwd=self.folder, **({"timeout": 30} | how))

    def summary(self, run: str = "run") -> dict[str, Any]:
        """What a run's summary.json holds."""
        return json.loads((self.folder / run / "summary.json").read_text())

    def digest(self, run: str = "run") -> str:
        """The sha256 of a run's weights, as its summary says it."""
        return self.summary(run)["weights_sha256"]

    def events(self, run: str = "run") -> list[dict[str, Any]]:
        """The rows of a run's metrics.jsonl."""
        return [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]

    def resolved(self, run: str = "run") -> dict[str, Any]:
        """What a run's config.toml holds."""
        return tomllib.loads((self.folder / run / "config.toml").read_text())

    def checkpoints(self, run: str = "run") -> list[str]:
        """The names of a run's checkpoints, hidden leftovers too."""
        return sorted(path.name for path in (self.folder / run / "checkpoints").iterdir())


class Stop(Hook):
    """Ends a run after a number of steps, like a kill after that step's checkpoint."""

    def __init__(self, at: int) -> None:
        self.at = at

    def after_step(self, trainer: Trainer) -> None:
        """Raise InterruptedError once the number is reached."""
        if trainer.count == self.at:
            raise InterruptedError


def rows(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """n rows (n, WIDTH) float32 and their classes (n,) int64, which a small model can learn; every class occurs."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % CLASSES
    x = random.normal(0, 0.5, (n, WIDTH)) + np.eye(CLASSES, WIDTH)[y] * 2
    return x.astype(np.float32), y


def write_shards(folder: Path, *lengths: int) -> str:
    """Write rows(sum(lengths)) as train-0.h5, train-1.h5, ... of these lengths, and return their pattern."""
    x, y = rows(sum(lengths))
    for number, (first, last) in enumerate(pairwise(np.cumsum([0, *lengths]))):
        write_shard(folder / f"train-{number}.h5", x[first:last], y[first:last])
    return str(folder / "train-*.h5")


def write_shard(path: Path, x: np.ndarray, y: np.ndarray | None, **more: np.ndarray) -> None:
    """Write one shard with the fields x and y, and more by their names."""
    with h5py.File(path, "w") as file:
        for name, field in {"x": x, "y": y, **more}.items():
            if field is not None:
                file[name] = field


def explained(result: Result, *parts: str, seconds: float = 15) -> str:
    """Assert that a world ended at once with one message that holds these parts, and no traceback; return the message."""
    assert result.returncode == 2, (result.returncode, result.stdout, result.stderr)
    assert result.stderr.count("hpcml: error:") == 1, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    assert "Warning" not in result.stderr, result.stderr
    for part in parts:
        assert part in result.stderr, (part, result.stderr)
    assert result.seconds < seconds
    return result.stderr
