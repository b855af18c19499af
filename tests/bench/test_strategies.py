"""The comparison of strategies at tiny size."""

from __future__ import annotations

import pytest

from hpcml.bench.strategies import OWN_PACE, STRATEGIES, straggle, train, train_own_pace
from hpcml.comm import simulated
from hpcml.config import load
from hpcml.sync import EveryStep, LocalSteps
from hpcml.sync.arrivals import Drawn
from tests.small import Job


def test_every_strategys_settings_are_a_job(repository):
    for changes in [*STRATEGIES.values(), *OWN_PACE.values()]:
        load(repository / "jobs" / "digits.toml", changes)


@pytest.mark.parametrize("name", ["every step", "local steps"])
def test_an_outcome_counts_the_steps_alone(tmp_path, name):
    job = Job(tmp_path)
    job.config.write_text(job.config.read_text().replace('"t', f'"{tmp_path}/t'))

    def program(comm):
        return train(job.config, ["train.epochs=4", *STRATEGIES[name]], comm, tmp_path / "run")

    first, *others = simulated.run(4, program)
    assert all(other == first for other in others)
    vector = (4 * 5 + 5 + 5 * 3 + 3 + 5) * 4
    assert first.sent == {"every step": 16, "local steps": 2}[name] * 2 * 3 * vector
    assert 0 < first.accuracy <= 1
    assert 0 < first.waited < 1
    assert (first.conits is None) == (name == "every step")


def test_an_outcome_at_their_own_pace_counts_letters_between_ranks(tmp_path):
    job = Job(tmp_path)
    job.config.write_text(job.config.read_text().replace('"t', f'"{tmp_path}/t'))

    def program(comm):
        return train_own_pace(job.config, ["train.epochs=2", *OWN_PACE["bsp"]], comm, tmp_path / "run")

    first, *others = simulated.run(4, program)
    assert all(other == first for other in others)
    parameters = (4 * 5 + 5 + 5 * 3 + 3) * 4
    assert first.sent == 8 * 2 * 3 * parameters  # 8 steps: each worker sends three shards of four away, and gets them back
    assert 0 < first.waited < 1
    assert first.conits["mean_staleness"] == 0


def test_a_straggler_costs_synchronous_sgd_all_that_it_is_slower(world):
    def program(comm):
        slow = lambda step: 1  # noqa: E731
        backup = EveryStep(spare=1, arrivals=Drawn(slow=(1,)))
        plans = (EveryStep(), LocalSteps(4), backup)
        return [straggle(plan, comm, 0.004, 8, slow) for plan in plans]

    every, local, backup = world(2, program)[0]
    assert every >= 0.02
    assert local >= 0.02
    assert backup < every / 2
