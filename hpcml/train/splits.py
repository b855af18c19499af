"""Whether workers that keep their rows see the same classes as all: biased splits poison ensembles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hpcml.arrays import span, to_host
from hpcml.train.evaluation import Reader, blocks

if TYPE_CHECKING:
    from hpcml.train.trainer import Trainer

BEYOND_CHANCE = 3.0
"""A split is called biased if its distance is so many times what a random one of as many rows has on average."""


def label_distances(counts: np.ndarray) -> np.ndarray:
    """Return how far each worker's label shares are from those of all rows: (V,) total variation, 0 alike to 1 disjoint.

    Args:
        counts: (V, classes) rows of each worker and class.
    """
    whole = counts.sum(axis=0) / max(counts.sum(), 1)
    own = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    distances: np.ndarray = abs(own - whole).sum(axis=1) / 2
    return distances


def count_labels(trainer: Trainer) -> np.ndarray:
    """Return (V, classes) rows of each worker and class, on every rank; reads the training rows once, each rank its workers'."""
    classes = trainer.model.outputs[-1]
    counts = np.zeros((trainer.workers, classes))
    reader, hosted = Reader(trainer.data, trainer.model), span(trainer.workers, trainer.comm.size, trainer.nodes.order.rank)
    with trainer.comm.together():
        for worker in range(hosted.start, hosted.stop):
            for k in range(trainer.sampler.windows(worker)):
                for start, stop in trainer.sampler.window(0, worker, k).runs:
                    for first, last in blocks(start, stop, trainer.model.rows_at_once):
                        y = to_host(reader.read(first, last)[1])
                        counts[worker] += np.bincount(y[y >= 0], minlength=classes)[:classes]
    trainer.comm.all_reduce(counts)
    return counts


def diagnose(trainer: Trainer) -> str:
    """Return in words how alike the workers' label shares are, and which workers' are biased; every rank calls it."""
    counts = count_labels(trainer)
    distances, rows = label_distances(counts), counts.sum(axis=1)
    chance = [math.sqrt((counts.sum(axis=0) > 0).sum() / (2 * math.pi * max(n, 1))) for n in rows]
    shown = f"label shares of the workers' own rows differ from those of all rows by at most {distances.max():.3f} (0: alike, 1: disjoint)"
    biased = [worker for worker in range(len(rows)) if distances[worker] > BEYOND_CHANCE * chance[worker]]
    if not biased:
        return f"{shown}, as random splits do"
    names = ", ".join(f"{worker} ({distances[worker]:.2f})" for worker in biased[:5]) + (", ..." if len(biased) > 5 else "")
    return (
        f"{shown}: biased for worker {names}; such members judge what they have not seen; mix the rows with `hpcml data reshard --shuffle`"
    )
