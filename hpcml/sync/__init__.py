"""What workers agree on, and when: synchronisers over reducers over roads."""

from hpcml.comm.roads import ROADS
from hpcml.sync.conits import Conits
from hpcml.sync.delayed import Delayed
from hpcml.sync.elastic import Elastic
from hpcml.sync.ensemble import COMBINES, Ensemble
from hpcml.sync.every_step import EveryStep
from hpcml.sync.full_batch import LBFGS
from hpcml.sync.gossip import Gossip
from hpcml.sync.local_steps import LocalSteps
from hpcml.sync.meetings import Adaptive, Once
from hpcml.sync.nodes import Nodes
from hpcml.sync.outer import AVERAGE, BlockMomentum, Outer, OuterRule, slow_momentum
from hpcml.sync.synchroniser import Auto, ExactTree, Fast, Plan, Sum, Synchroniser
from hpcml.sync.warm_start import WarmStart

SUMS: dict[str, Sum] = {"tree": ExactTree(), **{name: Fast(name, road) for name, road in ROADS.items()}}
"""Every way to sum over the workers, by name."""

__all__ = [
    "AVERAGE",
    "COMBINES",
    "LBFGS",
    "SUMS",
    "Adaptive",
    "Auto",
    "BlockMomentum",
    "Conits",
    "Delayed",
    "Elastic",
    "Ensemble",
    "EveryStep",
    "ExactTree",
    "Fast",
    "Gossip",
    "LocalSteps",
    "Nodes",
    "Once",
    "Outer",
    "OuterRule",
    "Plan",
    "Sum",
    "Synchroniser",
    "WarmStart",
    "slow_momentum",
]
