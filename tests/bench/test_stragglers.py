"""The benchmark of stragglers at tiny size."""

from __future__ import annotations

from hpcml.bench.step import make_shard
from hpcml.bench.stragglers import Straggler, rows_per_second
from hpcml.comm import simulated
from hpcml.sync.server import BSP, TAP, ParameterServer


def test_a_slow_worker_holds_up_who_waits_for_it_and_not_who_takes_over(tmp_path):
    shard = tmp_path / "rows.h5"
    make_shard(shard, 8 * 30, 4, 3)

    def speed(sync, factor, turn=0):
        def program(comm):
            return rows_per_second(comm, shard, [4, 3], 8, sync, Straggler(0.004, factor, turn), epochs=1)

        return min(simulated.run(4, program))

    quick, slow = speed(ParameterServer(BSP()), 1.0), speed(ParameterServer(BSP()), 5.0)
    assert slow < quick / 2
    assert speed(ParameterServer(TAP(), stealing=True), 5.0) > 1.5 * slow
    assert speed(ParameterServer(TAP()), 5.0, turn=5) > 1.2 * slow
