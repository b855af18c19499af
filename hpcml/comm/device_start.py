"""The start of the roads of device arrays: what the user asked for, what a probe found, what these ranks can have."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hpcml.arrays import choose_device
from hpcml.comm.communicator import Communicator, everywhere
from hpcml.comm.device_roads import DeviceRoads
from hpcml.comm.device_table import DIRECT, NCCL, OPERATIONS, STAGED, DeviceTable, Trial, choose, from_json, to_json
from hpcml.comm.mpi import MpiCommunicator
from hpcml.comm.start import library_version
from hpcml.errors import DeviceError

QUICK_SIZES = (1 << 12, 1 << 22)
"""Bytes at which a road that was asked for by name is tried: on both sides of the libraries' change from eager to rendezvous messages."""


def table_path(environment: Mapping[str, str]) -> Path:
    """Return where the probe's table is kept: $HPCML_DEVICE_ROADS, or runs/device-roads.json."""
    return Path(environment.get("HPCML_DEVICE_ROADS", "runs/device-roads.json"))


def place_of(model: str) -> str:
    """Return what a probe's trials hold for: the MPI library and the GPU's model."""
    return f"{library_version()} on {model}"


def start_device_roads(comm: Communicator, device: str, road: str) -> tuple[Communicator, list[str]]:
    """Return the communicator for arrays of this device, and what the user should be told; every rank calls it.

    On the CPU, alone, and without an MPI library it is `comm` itself, which stages device arrays.

    Args:
        comm: all ranks.
        device: run.device, "auto", "cpu" or "gpu".
        road: run.device_road, "auto", "direct", "staged" or "nccl".

    Raises:
        DeviceError: on every rank, if there is no GPU where one was asked for, or the probe shows that a road asked for is wrong.
        DisagreementError: if some ranks have a GPU and others have none.
    """
    if device == "cpu" or comm.size == 1 or not isinstance(comm, MpiCommunicator):
        return comm, []
    inside, across = comm.by_node()
    place = inside.rank
    inside.free()
    across.free()
    with comm.together():
        chosen = choose_device(device, place)
        chosen.activate()
    comm.agree("cpu" if chosen.index is None else "gpu", "the kind of device")
    if chosen.index is None or road == STAGED:
        return comm, []
    if road == NCCL:
        return _by_nccl(comm)
    if road == DIRECT:
        return _by_library(comm)
    trials, hosts, notes = _known_or_probed(comm, place_of(chosen.model))
    return by_trials(comm, trials, hosts, notes)


def by_trials(comm: MpiCommunicator, trials: list[Trial], hosts: int, notes: list[str]) -> tuple[Communicator, list[str]]:
    """Return the communicator that takes the fastest of the roads that are right and that these ranks can have."""
    from hpcml.comm.nccl import NcclCommunicator, why_not

    roads: dict[str, Communicator] = {STAGED: comm}
    spread = len(set(comm.all_gather_bytes(comm.host.encode())))
    if spread > 1 and hosts < 2:
        notes = [*notes, "the MPI library was not probed between nodes, so it gets no device arrays; `hpcml probe --launch` can do it"]
    else:
        roads[DIRECT] = comm.handing_over()
    wanted = set(OPERATIONS) - {trial.operation for trial in trials if trial.road == NCCL and trial.fault}
    problem = why_not(comm) if wanted else "the probe could not use NCCL"
    if problem:
        notes = [*notes, problem]
    else:
        roads[NCCL] = NcclCommunicator(comm)
    table = choose(trials, list(roads))
    return DeviceRoads(roads, table), [*notes, *(f"device arrays: {line}" for line in table.lines())]


def _by_nccl(comm: MpiCommunicator) -> tuple[Communicator, list[str]]:
    from hpcml.comm.nccl import NcclCommunicator, why_not

    problem = why_not(comm)
    if problem:
        return comm, [f"{problem}; device arrays are staged through host memory"]
    return DeviceRoads({STAGED: comm, NCCL: NcclCommunicator(comm)}, _only(NCCL)), []


def _by_library(comm: MpiCommunicator) -> tuple[Communicator, list[str]]:
    """Take the user's word for the MPI library, unless children show that it is wrong."""
    from hpcml.comm.probe import launcher, try_road

    faults = b""
    if comm.rank == 0 and launcher():
        trials = [trial for operation in OPERATIONS for trial in try_road(DIRECT, [operation], QUICK_SIZES)]
        faults = "; ".join(f"{trial.operation}: {trial.fault}" for trial in trials if trial.fault).encode()
    said = comm.broadcast_bytes(faults).decode()
    if said:
        text = f'run.device_road is "direct", but this MPI library does not take device arrays ({said})'
        raise everywhere(DeviceError(f'{text}; set run.device_road to "auto", "nccl" or "staged"'))
    unproven = np.array([comm.rank == 0 and not launcher()], np.int32)
    comm.broadcast(unproven)
    notes = ["device arrays go to the MPI library unproven: no mpirun was found for a probe"] if unproven[0] else []
    return DeviceRoads({STAGED: comm, DIRECT: comm.handing_over()}, _only(DIRECT)), notes


def _only(road: str) -> DeviceTable:
    return DeviceTable({operation: [(0, road)] for operation in OPERATIONS})


def _known_or_probed(comm: Communicator, place: str) -> tuple[list[Trial], int, list[str]]:
    """Return the trials of this place, the hosts they ran over, and notes: from the file, or probed now by rank 0 and kept there."""
    kept = b""
    with comm.together():
        if comm.rank == 0:
            kept = _read_or_probe(table_path(os.environ), place).encode()
    text, _, note = comm.broadcast_bytes(kept).decode().partition("\0")
    trials, _, hosts = from_json(text, "the probe")
    return trials, hosts, [note] if note else []


def _read_or_probe(path: Path, place: str) -> str:
    """Return the file's text where it holds for this place, else that of a new probe; behind a zero what to say."""
    from hpcml.comm.probe import probe

    if path.exists():
        text = path.read_text("utf-8")
        if from_json(text, str(path))[1] == place:
            return f"{text}\0"
    text = to_json(probe(), place, 1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        return f"{text}\0{path} cannot be written ({error.strerror}), so every start probes the roads of device arrays again"
    return f"{text}\0the roads of device arrays were probed; the table is kept in {path}"
