"""Small runs of workers at their own pace, in simulated worlds.

Letters: N rows, B rows of the global batch, V virtual workers.
"""

from __future__ import annotations

import json

import hpcml
from hpcml.comm import simulated
from hpcml.train.checkpoint import sha256_of_weights
from tests.small import CLASSES, WIDTH

N, B, V = 61, 16, 4
STEPS = -(-N // B)


def trainer(comm, shards, sync, **options):
    options = {"batch": B, "workers": V, "seed": 3, "hooks": [], "test": hpcml.open_shards(shards), **options}
    model = hpcml.nn.mlp([WIDTH, 5, CLASSES], seed=3)
    rule = options.pop("rule", hpcml.SGD(rate=0.1, momentum=0.5))
    return hpcml.Trainer(model, hpcml.nn.softmax_cross_entropy, rule, sync, hpcml.open_shards(shards), comm=comm, **options)


def train(ranks, epochs, shards, sync, **options):
    """Train in a simulated world; return what all ranks must share: digest and metrics; and what was measured."""

    def program(comm):
        it = trainer(comm, shards, sync, **options)
        metrics = it.run(epochs)
        result = sha256_of_weights(it.model.arena.data), json.dumps(metrics), json.dumps(getattr(it.sync, "measured", None))
        it.close()
        return result

    (found,) = set(simulated.run(ranks, program))
    return found[:2], json.loads(found[2])
