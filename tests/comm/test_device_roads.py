from __future__ import annotations

import numpy as np
import pytest

from hpcml.comm import device_start, simulated
from hpcml.comm.device_roads import DeviceRoads
from hpcml.comm.device_table import OPERATIONS, DeviceTable
from tests.laws import CommunicatorLaws

BY_SIZE = DeviceTable({**{operation: [(0, "staged"), (100, "nccl")] for operation in OPERATIONS}, "exchange": [(0, "nccl")]})


class TestSeveralRoads(CommunicatorLaws):
    def make(self, comm):
        return DeviceRoads({"staged": comm, "nccl": comm}, BY_SIZE)


class Told:
    """A road that tells its name."""

    rank, size, host, threaded, concurrent = 0, 1, "here", True, False

    def __init__(self, name, story):
        self.name, self.story = name, story

    def all_reduce(self, x, op):
        self.story.append(self.name)

    def broadcast(self, x, root):
        self.story.append(self.name)

    def all_gather(self, x, out):
        self.story.append(self.name)

    def exchange(self, x, to, into, source):
        self.story.append(self.name)

    def split(self, color, key):
        return self


def take_roads(monkeypatch, there, known=("staged", "nccl")):
    """Return the roads taken by a small all-reduce, then a long all-reduce, broadcast, gather and a small exchange."""
    monkeypatch.setattr("hpcml.comm.device_roads.on_device", lambda x: there)
    story = []
    comm = DeviceRoads({name: Told(name, story) for name in known}, BY_SIZE).split(0)
    short, long = np.zeros(1), np.zeros(1000)
    comm.all_reduce(short)
    comm.all_reduce(long)
    comm.broadcast(long)
    comm.all_gather(long, np.zeros((1, 1000)))
    comm.exchange(short, 0, None, None)
    comm.exchange(None, None, short, 0)
    return story


def test_device_arrays_take_the_road_of_their_size_and_exchanges_one_for_all(monkeypatch):
    assert take_roads(monkeypatch, True) == ["staged"] + ["nccl"] * 5


def test_host_arrays_take_the_staged_road(monkeypatch):
    assert take_roads(monkeypatch, False) == ["staged"] * 6


def test_a_road_that_these_ranks_do_not_have_is_replaced_by_the_staged_one(monkeypatch):
    assert take_roads(monkeypatch, True, known=["staged"]) == ["staged"] * 6


def test_without_a_gpu_or_without_others_nothing_is_probed(monkeypatch):
    monkeypatch.setattr(device_start, "_known_or_probed", lambda *given: pytest.fail("probed"))

    def program(comm):
        for device in ("cpu", "auto"):
            assert device_start.start_device_roads(comm, device, "auto") == (comm, [])

    for size in (1, 2):
        simulated.run(size, program)


@pytest.mark.mpi
def test_a_real_world_without_gpus_stays_as_it_is(comm, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device_start.start_device_roads(comm, "auto", "nccl") == (comm, [])


def test_a_table_is_kept_and_used_again_for_the_same_place_only(monkeypatch, tmp_path):
    probed = []
    monkeypatch.setattr("hpcml.comm.probe.probe", lambda: probed.append(1) or [])
    path = tmp_path / "new" / "table.json"
    first = device_start._read_or_probe(path, "A")
    assert "kept in" in first
    assert device_start._read_or_probe(path, "A") == first.partition("\0")[0] + "\0"
    assert len(probed) == 1
    device_start._read_or_probe(path, "B")
    assert len(probed) == 2


def test_a_table_that_cannot_be_kept_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("hpcml.comm.probe.probe", list)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in device_start._read_or_probe(tmp_path / "file" / "table.json", "A")
