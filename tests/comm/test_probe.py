"""The probe's machinery, on host arrays: children that are right, wrong, silent, dead or endless."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from hpcml.comm import Communicator, probe, simulated, trial
from hpcml.comm.device_table import OPERATIONS
from tests.mpirun import clean_environment


def child(code, seconds=20.0):
    return probe.run_child([sys.executable, "-c", code], seconds, dict(os.environ))


def test_a_child_that_ends_well_is_heard():
    assert child("print('TRIAL 1')") == ("TRIAL 1\n", "")


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("import os; print('so far', flush=True); os.kill(os.getpid(), 11)", "the child world ended with SIGSEGV"),
        ("import sys; print('so far'); sys.exit(139)", "the child world ended with SIGSEGV"),
        ("import sys; print('so far'); sys.stderr.write('why\\n'); sys.exit(3)", "the child world ended with exit code 3: why"),
        ("import time; print('so far', flush=True); time.sleep(60)", "no end within 1 s"),
    ],
)
def test_how_a_child_ended_is_told_and_what_it_said_before_is_kept(code, end):
    assert child(code, 1.0 if "sleep" in code else 20.0) == ("so far\n", end)


def test_a_command_that_is_not_there_is_told():
    said, end = probe.run_child(["no-such-launcher"], 1.0, dict(os.environ))
    assert (said, "no-such-launcher cannot be started" in end) == ("", True)


def test_a_world_that_dies_half_way_keeps_what_was_right_and_faults_the_rest(monkeypatch):
    line = trial.MARK + '{"operation": "all_reduce", "road": "direct", "nbytes": 1, "seconds": 0.5, "fault": ""}'
    monkeypatch.setattr(probe, "run_child", lambda *given: (f"noise {line}\nnoise", "the child world ended with SIGSEGV"))
    first, *rest = probe.try_road("direct", ["all_reduce", "broadcast"], [1, 2])
    assert (first.seconds, first.fault) == (0.5, "")
    assert [(row.operation, row.fault) for row in rest] == [
        ("all_reduce", "the child world ended with SIGSEGV"),
        ("broadcast", "the child world ended with SIGSEGV"),
    ]


def test_without_a_launcher_every_road_has_a_fault(monkeypatch):
    monkeypatch.setattr(probe, "launcher", list)
    assert {row.fault for row in probe.probe()} == {"no mpirun was found to start a world of two; give one with --launch"}


@pytest.mark.slow
def test_real_children_try_every_operation_of_the_roads_that_need_no_gpu():
    for road, operations in (("staged", list(OPERATIONS)), ("direct", ["all_reduce", "exchange"])):
        rows = probe.try_road(road, operations, [64, 4096], on="cpu")
        assert [(row.operation, row.nbytes, row.fault) for row in rows] == [(o, n, "") for o in operations for n in (64, 4096)]
        assert all(row.seconds > 0 for row in rows)


def test_the_childs_environment_has_the_users_settings_but_not_this_world():
    world = {
        "PMI_RANK": "1",
        "PMIX_RANK": "1",
        "OMPI_COMM_WORLD_RANK": "1",
        "SLURM_PROCID": "1",
        "OMPI_MCA_ess_base_vpid": "1",
        "HYDI_X": "1",
    }
    kept = {"OMPI_MCA_pml": "ucx", "PATH": "somewhere", "UCX_TLS": "cuda", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    found = probe.child_environment(world | kept)
    assert {name: found[name] for name in kept} == kept
    assert not set(world) & set(found)


class Wrong(Communicator):
    """A communicator that spoils one number of one operation on one rank."""

    def __init__(self, inner, operation):
        self.inner, self.operation, self.rank, self.size, self.host = inner, operation, inner.rank, inner.size, inner.host

    def spoil(self, operation, x):
        if operation == self.operation and self.rank == 1:
            x.reshape(-1)[-1] += 1

    def exchange(self, x, to, into, source):
        self.inner.exchange(x, to, into, source)
        self.spoil("exchange", into)

    def all_reduce(self, x, op=None):
        self.inner.all_reduce(x)
        self.spoil("all_reduce", x)

    def broadcast(self, x, root=0):
        self.inner.broadcast(x, root)
        self.spoil("broadcast", x)

    def all_gather(self, x, out):
        self.inner.all_gather(x, out)
        self.spoil("all_gather", out)

    def split(self, color, key=0):
        return self

    def by_node(self):
        return self, self


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("wrong", OPERATIONS)
def test_one_wrong_number_on_one_rank_is_found_on_all(operation, wrong):
    def program(comm):
        return trial.attempt(comm, Wrong(comm, wrong), "direct", operation, 64, np.asarray).fault

    assert simulated.run(2, program) == ["wrong values in float32" if operation == wrong else ""] * 2


def test_a_road_that_cannot_be_opened_is_a_fault_of_every_operation():
    def program(comm):
        return list(trial.tries(comm, "direct", list(OPERATIONS), [64], np.asarray))

    for rows in simulated.run(2, program):
        assert [row.fault for row in rows] == ["there is no MPI library to hand device arrays to"] * 4


def test_the_launcher_is_the_one_of_this_python():
    words = probe.launcher()
    assert words[1:] == ["-n", "2"]
    assert os.path.dirname(words[0]) in clean_environment()["PATH"]
