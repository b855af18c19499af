"""What workers agree on, and when: synchronisers over reducers over roads."""

from hpcml.comm.roads import ROADS
from hpcml.sync.every_step import EveryStep
from hpcml.sync.local_steps import LocalSteps
from hpcml.sync.nodes import Nodes
from hpcml.sync.synchroniser import Auto, ExactTree, Fast, Sum, Synchroniser

SUMS: dict[str, Sum] = {"tree": ExactTree(), **{name: Fast(name, road) for name, road in ROADS.items()}}
"""Every way to sum over the workers, by name."""

__all__ = ["SUMS", "Auto", "EveryStep", "ExactTree", "Fast", "LocalSteps", "Nodes", "Sum", "Synchroniser"]
