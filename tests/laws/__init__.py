"""The laws of each family of the core: an implementation subclasses the class of its family, says how to `make` one, and inherits all.

Rank-dependent values, each collective twice, numpy as the oracle. Under mpirun the bodies run on every rank of the real world.
"""

from tests.laws.communicator import CommunicatorLaws
from tests.laws.reducer import ReducerLaws
from tests.laws.rule import RuleLaws
from tests.laws.synchroniser import Job, SynchroniserLaws

__all__ = ["CommunicatorLaws", "Job", "ReducerLaws", "RuleLaws", "SynchroniserLaws"]
