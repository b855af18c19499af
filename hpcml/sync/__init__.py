"""What workers agree on, and when: synchronisers over reducers over roads."""

from hpcml.comm.schedules import SCHEDULES
from hpcml.sync.every_step import EveryStep
from hpcml.sync.local_steps import LocalSteps
from hpcml.sync.nodes import Nodes
from hpcml.sync.reducers import library, scheduled
from hpcml.sync.synchroniser import ExactTree, Fast, Sum, Synchroniser

SUMS: dict[str, Sum] = {
    "tree": ExactTree(),
    "all-reduce": Fast("all-reduce", library),
    **{name: Fast(name, scheduled(schedule)) for name, schedule in SCHEDULES.items()},
}
"""Every way to sum over the workers, by name."""

__all__ = ["SUMS", "EveryStep", "ExactTree", "Fast", "LocalSteps", "Nodes", "Sum", "Synchroniser"]
