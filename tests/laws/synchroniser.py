"""What every synchroniser does, and the tiny job that shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpcml.arrays import Device, spans, to_host
from hpcml.comm import Communicator
from hpcml.comm.alone import Alone
from hpcml.nn import Tail, mlp
from hpcml.optim import SGD
from hpcml.sync import SUMS, Nodes
from hpcml.sync.synchroniser import restore


class SynchroniserLaws:
    """What every synchroniser does; `make(sum)` returns its plan over a way to sum. V = 6 workers; worker 4 has no rows at step 1."""

    workers = 6
    rule: Any = SGD(0.1, momentum=0.9)

    def make(self, sum: Any) -> Any:
        raise NotImplementedError

    def job(self, comm: Communicator, sum: Any = SUMS["tree"], rule: Any = None) -> Job:
        return Job(self.make(sum), comm, self.workers, rule or self.rule)

    def test_all_ranks_hold_the_same_weights_after_every_step(self, on_every_rank):
        def program(comm):
            job = self.job(comm)
            for step in range(5):
                job.steps(step, step + 1)
                comm.agree(job.weights().tobytes(), f"the weights after step {step}")

        on_every_rank(program)

    def test_the_weights_have_the_same_bits_on_any_number_of_ranks(self, on_every_rank):
        alone = self.job(Alone())
        alone.steps(0, 7)

        def program(comm):
            job = self.job(comm)
            job.steps(0, 7)
            np.testing.assert_array_equal(job.weights(), alone.weights())

        expected = alone.weights()
        assert np.isfinite(expected).all()
        on_every_rank(program)

    def test_every_road_agrees_with_the_tree_to_rounding(self, on_every_rank):
        def program(comm):
            exact = self.job(comm)
            exact.steps(0, 6)
            expected = exact.weights()
            for name, road in SUMS.items():
                fast = self.job(comm, road)
                fast.steps(0, 6)
                np.testing.assert_allclose(fast.weights(), expected, rtol=1e-11, atol=1e-13)
                comm.agree(fast.weights().tobytes(), f"the weights by {name}")

        on_every_rank(program)

    def test_consensus_changes_no_worker(self, on_every_rank):
        def program(comm):
            asked, left_alone = self.job(comm), self.job(comm)
            for step in range(7):
                asked.steps(step, step + 1)
                first = asked.weights()
                np.testing.assert_array_equal(asked.weights(), first)
            left_alone.steps(0, 7)
            np.testing.assert_array_equal(asked.weights(), left_alone.weights())
            for (worker, name), x in asked.state().items():
                expected = left_alone.state()[worker, name]
                if name == "conits":  # who asks may find models farther apart than they were when they met: a measurement, no more
                    assert x[0] >= expected[0]
                    x, expected = x[1:], expected[1:]
                np.testing.assert_array_equal(x, expected, err_msg=f"{name} of worker {worker}")

        on_every_rank(program)

    def test_every_row_is_counted_once_and_an_empty_worker_not_at_all(self, on_every_rank):
        def program(comm):
            job = self.job(comm)
            counted = sum(job.steps(0, 5), np.zeros(len(Tail)))
            pending = job.sync.consensus()
            rows = sum(job.rows(step, worker) for step in range(5) for worker in range(self.workers))
            assert counted[Tail.ROWS] + pending[Tail.ROWS] == rows
            assert counted[Tail.WEIGHT] + pending[Tail.WEIGHT] == rows

        on_every_rank(program)

    @pytest.mark.parametrize(("saved_on", "stop"), [(1, 5), (2, 4), (5, 5)])
    def test_ten_steps_or_some_then_the_rest_in_fresh_objects_on_other_ranks_are_the_same_bits(self, world, on_every_rank, saved_on, stop):
        def whole(comm):
            job = self.job(comm)
            job.steps(0, 10)
            return job.weights()

        def first_part(comm):
            job = self.job(comm)
            job.steps(0, stop)
            return job.state()

        expected = world(1, whole)[0]
        saved = {name: x for part in world(saved_on, first_part) for name, x in part.items()}

        def second_part(comm):
            job = self.job(comm)
            job.arena.data[:] = -1
            job.restore(saved)
            job.steps(stop, 10)
            np.testing.assert_array_equal(job.weights(), expected)

        on_every_rank(second_part)


class Job:
    """A tiny training run on one rank: model, synchroniser and data that depend on (step, worker) alone."""

    def __init__(self, plan: Any, comm: Communicator, workers: int, rule: Any, device: Device | None = None) -> None:
        self.model = mlp([5, 4, 3], seed=3, dtype=np.float64, device=device)
        self.arena = self.model.arena
        nodes = Nodes(comm)
        run = spans(workers, comm.size)[nodes.order.rank]
        self.hosted = range(run.start, run.stop)
        self.sync = plan.start(self.arena, nodes, workers, rule)

    def rows(self, step: int, worker: int) -> int:
        """Return how many rows the worker has in this step."""
        return 0 if (step, worker) == (1, 4) else 4

    def steps(self, first: int, last: int) -> list[np.ndarray]:
        """Take the steps and return the sums of the tails that were exchanged."""
        counted = []
        for step in range(first, last):
            for worker in self.hosted:
                if self.sync.lost(worker, step):
                    continue
                self.sync.enter(worker)
                self._differentiate(step, worker)
                self.sync.leave(worker, step)
            sums = self.sync.exchange(step)
            if sums is not None:
                self.sync.update(step, sums)
                counted.append(sums)
        return counted

    def _differentiate(self, step: int, worker: int) -> None:
        random, rows = np.random.default_rng([9, step, worker]), self.rows(step, worker)
        self.arena.grad.fill(0)
        if rows:
            place = self.arena.device.place
            prediction = self.model.forward(place(random.standard_normal((rows, 5))))
            self.model.backward(prediction - place(random.standard_normal((rows, 3))))
        self.arena.tail[:] = 0
        self.arena.tail[Tail.WEIGHT] = self.arena.tail[Tail.ROWS] = rows

    def weights(self) -> np.ndarray:
        """Return a copy of the mean parameters."""
        self.sync.consensus()
        return to_host(self.arena.data).copy()

    def state(self) -> dict[Any, np.ndarray]:
        """Return copies of the arrays that a checkpoint of this rank would hold, by (worker or None, name)."""
        found = {(None, name): to_host(x).copy() for name, x in self.sync.shared_state().items()}
        for worker in self.hosted:
            found |= {(worker, name): to_host(x).copy() for name, x in self.sync.worker_state(worker).items()}
        return found

    def restore(self, saved: dict[Any, np.ndarray]) -> None:
        """Overwrite the state by one saved on any number of ranks."""
        for owner in (None, *self.hosted):
            into = self.sync.shared_state() if owner is None else self.sync.worker_state(owner)
            restore(into, {name: x for (who, name), x in saved.items() if who == owner}, self.arena.device)
        self.sync.settle()
