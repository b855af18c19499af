"""Names of [sync] become strategies: when workers agree, and by which road."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from hpcml.comm.choice import automatic, load_table, table_path
from hpcml.comm.communicator import Communicator
from hpcml.comm.topologies import TOPOLOGIES, Topology, matrix, pairs
from hpcml.config import Config, SyncConfig
from hpcml.optim import SGD, AdamW
from hpcml.sync import (
    AVERAGE,
    COMBINES,
    LBFGS,
    SUMS,
    Adaptive,
    Auto,
    BlockMomentum,
    Delayed,
    Elastic,
    Ensemble,
    EveryStep,
    Gossip,
    LocalSteps,
    Once,
    Outer,
    OuterRule,
    Plan,
    Sum,
    WarmStart,
    slow_momentum,
)
from hpcml.sync.arrivals import Arrivals, Drawn, Recorded
from hpcml.sync.meetings import Every, Meetings
from hpcml.sync.server import (
    ASP,
    BAP,
    BSP,
    SSP,
    TAP,
    Consistency,
    Downpour,
    ElasticWorker,
    GossipLearning,
    Gradients,
    OwnPacePlan,
    ParameterServer,
)
from hpcml.sync.server.programs import Worker
from hpcml.sync.synchroniser import AdoptingPlan


def build_sync(config: Config, steps_per_epoch: int, comm: Communicator, notes: list[str]) -> Plan | OwnPacePlan:
    """Return the strategy that the config names, over the road that it names; a road chosen by "auto" is told in the notes.

    Args:
        config: as loaded.
        steps_per_epoch: what an epoch of sync.warm_epochs comes to.
        comm: all ranks; a measured table of roads is read together.
        notes: what was chosen is added here.
    """
    if config.sync.name == "gossip-learning":
        own, combine = config.server, COMBINES[config.sync.combine]
        return GossipLearning(config.train.seed, own.replay, cache=own.cache, combine=combine, stealing=own.stealing)
    if config.sync.name in _WORKERS:
        wanted = config.server.ranks
        if wanted != "all" and wanted >= comm.size and not config.server.replay:
            notes.append(f"server.ranks is {wanted}, and so needs more ranks than {comm.size}: every rank both serves and computes")
        notes += late_gradients(config)
        with comm.together():
            return build_server(config)
    keys, way = config.sync, build_sum(config, comm, notes)
    if keys.name == "every-step":
        return EveryStep(way, keys.spare, build_arrivals(config, comm)) if keys.spare else EveryStep(way)
    if keys.name == "delayed":
        return Delayed(way)
    if keys.name == "lbfgs":
        return LBFGS(steps_per_epoch, keys.memory, way)
    warm = round(keys.warm_epochs * steps_per_epoch)
    with comm.together():
        if config.run.survive:
            return _elastic(keys, build_topology(config), way, survives=True)
        plan = _ADOPTING[keys.name](keys, build_topology(config), way)
        if warm and keys.warm_epochs >= config.train.epochs:
            # No error: a run may end with its warm start, to be resumed with more epochs.
            text = f"sync.warm_epochs is {keys.warm_epochs:g}, train.epochs {config.train.epochs}: {keys.name} does not begin"
            notes.append(f"{text}, all steps are those of every-step; lower sync.warm_epochs, or set more epochs")
        return WarmStart(warm, plan) if warm else plan


def build_sum(config: Config, comm: Communicator, notes: list[str]) -> Sum:
    """Return how to sum over the workers."""
    name = config.sync.reducer
    if config.train.exact:
        return SUMS["tree"]
    if name == "auto":
        return Auto(automatic(load_table(comm, table_path(os.environ)), notes.append), say=notes.append)
    # In a fast run, "tree" is a tree over the ranks; only an exact run adds over the tree of virtual workers.
    return SUMS["binary-tree" if name == "tree" else name]


def build_arrivals(config: Config, comm: Communicator) -> Arrivals:
    """Return in which order the workers of a step come; rank 0 alone reads a record.

    Raises:
        ConfigError: on every rank, if the record cannot be read.
    """
    if not config.sync.arrivals:
        return Drawn(config.train.seed, tuple(config.sync.slow))
    record = Recorded(())
    with comm.together():
        if comm.rank == 0:
            record = Recorded.read(Path(config.sync.arrivals))
    return Recorded(tuple(map(tuple, json.loads(comm.broadcast_bytes(json.dumps(record.orders).encode())))))


def build_meetings(keys: SyncConfig) -> Meetings:
    """Return when workers with models of their own meet."""
    choices: dict[str, Callable[[], Meetings]] = {
        "fixed": lambda: Every(keys.every),
        "adaptive": lambda: Adaptive(keys.every),
        "once": Once,
    }
    return choices[keys.schedule]()


def build_outer(keys: SyncConfig) -> Outer:
    """Return what becomes of the mean of the models; "auto" is each optimizer's own momentum."""
    momentum = None if keys.outer_momentum == "auto" else float(keys.outer_momentum)
    choices: dict[str, Callable[[], Outer]] = {
        "average": lambda: AVERAGE,
        "block-momentum": lambda: BlockMomentum(momentum, keys.outer_rate, keys.outer_nesterov),
        "slow-momentum": lambda: slow_momentum(keys.outer_rate, 0.5 if momentum is None else momentum),
        "sgd": lambda: OuterRule(_outer_sgd(keys, 0.9 if momentum is None else momentum)),
        "adamw": lambda: OuterRule(AdamW(keys.outer_rate, decay=0.0)),
    }
    return choices[keys.outer]()


def _outer_sgd(keys: SyncConfig, momentum: float) -> SGD:
    return SGD(keys.outer_rate, momentum, nesterov=keys.outer_nesterov and momentum > 0)


def build_topology(config: Config) -> Topology:
    """Return who mixes with whom."""
    name = config.sync.topology
    if name == "pairs":
        return pairs(config.train.seed)
    return matrix(config.sync.matrix) if name == "matrix" else TOPOLOGIES[name]


def _local_steps(keys: SyncConfig, topology: Topology, way: Sum) -> AdoptingPlan:
    return LocalSteps(keys.every if keys.schedule == "fixed" else build_meetings(keys), way, build_outer(keys))


def _elastic(keys: SyncConfig, topology: Topology, way: Sum, survives: bool = False) -> AdoptingPlan:
    return Elastic(keys.every, keys.groups or None, keys.moving, way, tuple((step, group) for step, group in keys.losses), survives)


def _gossip(keys: SyncConfig, topology: Topology, way: Sum) -> AdoptingPlan:
    return Gossip(topology, keys.every, earlier=keys.earlier, pushed=keys.name == "push-sum", sum=way)


def _ensemble(keys: SyncConfig, topology: Topology, way: Sum) -> AdoptingPlan:
    return Ensemble(COMBINES[keys.combine], way)


_ADOPTING: dict[str, Callable[[SyncConfig, Topology, Sum], AdoptingPlan]] = {
    "local-steps": _local_steps,
    "elastic": _elastic,
    "ensemble": _ensemble,
    "gossip": _gossip,
    "push-sum": _gossip,
}
"""Strategies whose workers have models of their own, by name."""


_WORKERS: dict[str, Callable[[Config], Worker]] = {
    "parameter-server": lambda config: Gradients(),
    "downpour": lambda config: Downpour(config.server.fetch, config.server.push),
    "async-easgd": lambda config: ElasticWorker(config.sync.every, config.server.beta),
}
"""What the workers of a server do, by the name of the strategy."""


def build_server(config: Config) -> ParameterServer:
    """Return the strategy with a server that the config names."""
    keys = config.server
    models: dict[str, Callable[[], Consistency]] = {
        "tap": TAP,
        "bap": BAP,
        "bsp": BSP,
        "ssp": lambda: SSP(keys.bound),
        "asp": lambda: ASP(keys.threshold, keys.bound, keys.regions, None if keys.inside < 0 else keys.inside),
    }
    return ParameterServer(
        models[keys.consistency](),
        _WORKERS[config.sync.name](config),
        servers=None if keys.ranks == "all" else keys.ranks,
        groups=keys.groups,
        spare=config.sync.spare,
        stealing=keys.stealing,
        compensation=keys.compensation,
        warm=keys.warm,
        replay=keys.replay,
    )


def late_gradients(config: Config) -> list[str]:
    """Return what to lower where gradients come late and the optimizer is as for synchronous steps, or nothing."""
    momentum, keys = config.optimizer.momentum, config.server
    if config.sync.name == "async-easgd" or not momentum or keys.consistency == "bsp" or keys.groups == 1:
        return []
    text = f"{keys.consistency} takes gradients late, which momentum carries on: with optimizer.momentum = {momentum} a run may diverge"
    rate = f"; under tap also optimizer.rate = {config.optimizer.rate / 2:g}" if keys.consistency == "tap" else ""
    return [f"{text}; set optimizer.momentum = 0.0{rate}"]
