"""The promise: the same weights, bit for bit, on any number of ranks; stopped anywhere, resumed anywhere. On the real digits."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.mpirun import mpirun, start
from tests.standing import hpcml

RHYTHMS = {"every-step": [], "local-steps": ["sync.name=local-steps", "sync.every=8"]}
ENDLESS = 2000
"""Epochs of a run that is killed on its way: 20 of them may pass between two looks of a test that gets no core."""
ROADS = ("all-reduce", "ring", "binary-tree", "doubling")


def digits(repository: Path, run: Path, changes: list[str]) -> list[str | Path]:
    """The words of `hpcml train jobs/digits.toml`, short."""
    sets = [word for change in ["train.epochs=3", *changes] for word in ("--set", change)]
    return ["train", repository / "jobs" / "digits.toml", *sets, "--run", run]


def digest(repository: Path, run: Path) -> str:
    """What `hpcml checkpoint digest` prints, on one process."""
    return hpcml(1, "checkpoint", "digest", run, cwd=repository).check().stdout.strip()


@pytest.fixture
def train(repository, tmp_path):
    """Train on n ranks into a named folder, to the end, and return the folder; `by` starts them."""

    def run(n, name, changes=(), *options, by=hpcml):
        by(n, *digits(repository, tmp_path / name, list(changes)), *options, cwd=repository).check()
        return tmp_path / name

    return run


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_one_to_four_ranks_end_with_the_same_digest_and_the_same_metrics(train, repository, rhythm):
    folders = [train(n, f"R{n}", RHYTHMS[rhythm], by=mpirun) for n in (1, 2, 3, 4)]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    assert len({digest(repository, folder) for folder in folders} | {summary["weights_sha256"] for summary in summaries}) == 1
    assert all(summary["metrics"] == summaries[0]["metrics"] for summary in summaries)
    assert [summary["ranks"] for summary in summaries] == [1, 2, 3, 4]


def test_the_fast_roads_agree_with_the_exact_one_to_rounding_and_with_themselves_to_the_bit(train, repository):
    import numpy as np

    from hpcml.train.checkpoint import require_newest

    def weights(folder):
        return require_newest(folder)[0].shared()["weights"]

    short = ["train.epochs=1"]
    exact = weights(train(3, "exact", short))
    for road in ROADS:
        fast = [*short, "train.exact=false", f"sync.reducer={road}", "run.threads=1"]
        first, second = (weights(train(3, f"{road}-{again}", fast)) for again in (1, 2))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, exact, rtol=0, atol=2e-5 * np.abs(exact).max())


def kill_in_the_middle(repository: Path, run: Path, changes: list[str], all_ranks: bool) -> None:
    """Start 4 ranks and SIGKILL one or all of them once a checkpoint of the middle of an epoch is there."""
    child = start(4, "-m", "hpcml", *digits(repository, run, changes), cwd=repository)
    deadline, ranks = time.monotonic() + 40, dict[int, int]()
    while len(ranks) < 4 and time.monotonic() < deadline:  # now, since looking for them takes time in which the run goes on
        time.sleep(0.05)
        ranks = child.ranks()
    while not any(_step(path) % 12 for path in run.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.002)
    for pid in ranks.values() if all_ranks else [ranks[2]]:
        os.kill(pid, signal.SIGKILL)
    result = child.wait(50)
    assert result.returncode not in (0, 124)
    assert not (run / "summary.json").exists()


def _step(path: Path) -> int:
    return int(re.fullmatch(r"step-(\d+)", path.name)[1])


@pytest.mark.parametrize("all_ranks", [False, True], ids=["one rank", "all ranks"])
@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_killed_in_mid_epoch_on_4_and_resumed_on_3_then_1_it_ends_the_same(train, repository, tmp_path, rhythm, all_ranks):
    changes = [*RHYTHMS[rhythm], "run.checkpoint_every=5", f"train.epochs={ENDLESS}"]  # 5 is in the middle of a period of 8 too
    kill_in_the_middle(repository, tmp_path / "killed", changes, all_ranks)
    reached = max(_step(path) for path in tmp_path.glob("killed/checkpoints/step-*"))
    assert 0 < reached < 12 * ENDLESS
    on = -(-reached // 12) + 1
    # The resumed parts are short: the length of a run is no part of its identity.
    train(3, "killed", [*changes, f"train.epochs={on}"], "--resume")
    train(1, "killed", [*changes, f"train.epochs={on + 1}"], "--resume")
    whole = train(2, "whole", [*RHYTHMS[rhythm], f"train.epochs={on + 1}"])
    assert digest(repository, tmp_path / "killed") == digest(repository, whole)
    starts = [row for row in events(tmp_path / "killed") if row["event"] == "start"]
    assert [row["ranks"] for row in starts] == [4, 3, 1]
    assert starts[1]["resumed_from"] > 0


def events(run: Path) -> list[dict]:
    """The rows of metrics.jsonl: every one parses, whatever was killed."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
