"""Who mixes models with whom: graphs over V workers as mixing matrices, pure functions of (V, round).

Letters: V workers, W (V, V) float64. In a round worker i's model becomes the sum over j of W[i, j] times worker j's.
Rows that sum to 1 keep equal models equal; columns that sum to 1 keep the sum of all models. Both together let them find their mean.

    name         each hears           rounds that repeat   best for
    ring         2 neighbours         1                    few workers, slow networks
    torus        4 neighbours         1                    machines wired so
    exponential  log V                1                    fast agreement
    one-peer     1, 2^t places away   log V                the exact mean after log V rounds if V is a power of two
    pairs        1, drawn at random   never                the fewest bytes
    complete     all                  1                    the limit: an average

Source: Xiao and Boyd, Fast linear iterations for distributed averaging, 2004 (Metropolis weights);
Ying et al., Exponential graph is provably efficient for decentralized deep training, NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hpcml.arrays.seeds import stream
from hpcml.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Topology:
    """A graph that may change from round to round; two of the same name are the same.

    Args:
        name: all that tells it from others.
        weights: (V, round) -> W (V, V).
        period: V -> rounds after which it repeats; 0 for never.
    """

    name: str
    weights: Callable[[int, int], np.ndarray] = field(repr=False, compare=False)
    period: Callable[[int], int] = field(repr=False, compare=False, default=lambda workers: 1)


def metropolis(linked: np.ndarray) -> np.ndarray:
    """Return mixing weights of an undirected graph that need to know nothing but neighbours' degrees: symmetric, sums 1.

    Args:
        linked: (V, V) bool, symmetric; the diagonal is ignored.
    """
    linked = linked & ~np.eye(len(linked), dtype=bool)
    degree = linked.sum(axis=1)
    weights = np.where(linked, 1.0 / (1 + np.maximum(degree[:, None], degree[None, :])), 0.0)
    np.fill_diagonal(weights, 1.0 - weights.sum(axis=1))
    return weights


def _circulant(workers: int, steps: Sequence[int]) -> np.ndarray:
    """Return equal weights of a worker and those so many places before it; steps that meet are one."""
    weights = np.zeros((workers, workers))
    places = sorted({step % workers for step in [0, *steps]})
    for step in places:
        weights[np.arange(workers), (np.arange(workers) - step) % workers] = 1.0 / len(places)
    return weights


def _doublings(workers: int) -> list[int]:
    return [1 << k for k in range((workers - 1).bit_length())]


def torus_shape(workers: int) -> tuple[int, int]:
    """Return (rows, columns) of the torus nearest to a square; a prime number of workers makes a ring."""
    rows = next(r for r in range(int(workers**0.5), 0, -1) if workers % r == 0)
    return rows, workers // rows


def _torus(workers: int, round: int) -> np.ndarray:
    rows, columns = torus_shape(workers)
    place = np.arange(workers).reshape(rows, columns)
    linked = np.zeros((workers, workers), bool)
    for axis in (0, 1):
        beside = np.roll(place, 1, axis)
        linked[place, beside] = linked[beside, place] = True
    return metropolis(linked)


def _one_peer(workers: int, round: int) -> np.ndarray:
    steps = _doublings(workers) or [0]
    return _circulant(workers, [steps[round % len(steps)]])


def _complete(workers: int, round: int) -> np.ndarray:
    return np.full((workers, workers), 1.0 / workers)


RING = Topology("ring", lambda workers, round: _circulant(workers, [1, -1]))
TORUS = Topology("torus", _torus)
EXPONENTIAL = Topology("exponential", lambda workers, round: _circulant(workers, _doublings(workers)))
ONE_PEER = Topology("one-peer", _one_peer, lambda workers: max(len(_doublings(workers)), 1))
COMPLETE = Topology("complete", _complete)
DIRECTED_RING = Topology("directed-ring", lambda workers, round: _circulant(workers, [1]))

TOPOLOGIES = {each.name: each for each in (RING, TORUS, EXPONENTIAL, ONE_PEER, COMPLETE, DIRECTED_RING)}
"""Topologies that need to know nothing but (V, round), by name."""


def pairs(seed: int) -> Topology:
    """Return random pairs: in each round everybody has one partner and both take their mean; of an odd number one stays alone."""

    def weights(workers: int, round: int) -> np.ndarray:
        order = stream(seed, "pairs", round).permutation(workers)
        half = workers // 2
        partner = np.arange(workers)
        partner[order[:half]], partner[order[half : 2 * half]] = order[half : 2 * half], order[:half]
        mixed = np.zeros((workers, workers))
        mixed[np.arange(workers), np.arange(workers)] += 0.5
        mixed[np.arange(workers), partner] += 0.5
        return mixed

    return Topology(f"pairs of seed {seed}", weights, lambda workers: 0)


def matrix(rows: Sequence[Sequence[float]]) -> Topology:
    """Return the topology of a user's own mixing matrix, row i the weights of worker i."""
    fixed = np.array([list(row) for row in rows], np.float64) if len({len(row) for row in rows}) == 1 else np.zeros((0, 0))
    return Topology(f"matrix {[list(map(float, row)) for row in rows]}", lambda workers, round: fixed)


ROUNDS_CHECKED = 64
"""Rounds of a topology that never repeats which are checked before a run, and which together must connect all workers."""


def require_mixing(topology: Topology, workers: int, columns_only: bool = False) -> None:
    """Raise ConfigError unless models mixed over this topology find their mean: weights that sum as needed, a connected graph that mixes.

    Args:
        topology: to be checked over all its rounds.
        workers: V.
        columns_only: rows need not sum to 1, as for push-sum, which divides by what came.
    """
    reached, heard, kept = np.eye(workers, dtype=bool), np.eye(workers, dtype=bool), True
    for round in range(topology.period(workers) or ROUNDS_CHECKED):
        weights = topology.weights(workers, round)
        _require_weights(topology.name, weights, workers, columns_only)
        reached |= weights > 0
        heard, kept = (weights > 0) @ heard, kept and bool(weights.diagonal().all())
    for _ in range(workers.bit_length()):
        reached = reached @ reached
    if not reached.all():
        listener, teller = map(int, np.argwhere(~reached)[0])
        raise ConfigError(
            f"topology {topology.name}: the graph is not connected: worker {listener} never hears of worker {teller};"
            f" add a link on the way between them, or take one that is connected, such as {RING.name!r}"
        )
    if not kept:  # whoever keeps a share of its own mixes; else models may be handed round for ever, as by a permutation
        for _ in range((workers**2).bit_length()):
            heard = heard @ heard
        if not heard.all():
            nearest = ((np.eye(workers) + topology.weights(workers, 0)) / 2).round(6).tolist()
            raise ConfigError(
                f"topology {topology.name}: models are handed round and never mix, for after however many rounds some worker's model"
                f" holds nothing of some other's; let each keep a share of its own: {nearest}"
            )


def _require_weights(name: str, weights: np.ndarray, workers: int, columns_only: bool) -> None:
    if weights.shape != (workers, workers):
        shape = " x ".join(map(str, weights.shape)) if weights.size else "no square of numbers"
        raise ConfigError(f"topology {name}: the mixing matrix is {shape}, there are {workers} workers; give {workers} rows of {workers}")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ConfigError(f"topology {name}: a weight is negative or not finite; mixing weights are shares from 0 to 1")
    rows, columns = (np.flatnonzero(abs(weights.sum(axis=axis) - 1) > 1e-9) for axis in (1, 0))
    if columns.size:
        column, total = int(columns[0]), float(weights[:, columns[0]].sum())
        raise ConfigError(
            f"topology {name}: column {column} sums to {total:.6g}, it must be 1, or the mean of the models would drift;"
            f" for an undirected graph take Metropolis weights: {metropolis((weights > 0) | (weights.T > 0)).round(6).tolist()}"
        )
    if rows.size and not columns_only:
        row, total = int(rows[0]), float(weights[rows[0]].sum())
        raise ConfigError(
            f'topology {name}: row {row} sums to {total:.6g}, it must be 1; with columns that sum to 1, sync.name = "push-sum" takes it'
        )


def contraction(weights: np.ndarray) -> float:
    """Return the factor by which one round shrinks the distance of all models from their mean, at least: 0 on the complete graph."""
    workers = len(weights)
    return float(np.linalg.norm(weights - 1.0 / workers, 2))
