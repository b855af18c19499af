"""A parameter server: consistency as a state machine, tables, letters, and what workers do with them."""

from hpcml.sync.server.consistency import ASP, BAP, BSP, SSP, TAP, Consistency
from hpcml.sync.server.gossip_learning import GossipLearning
from hpcml.sync.server.plan import ParameterServer
from hpcml.sync.server.programs import Downpour, ElasticWorker, Gradients
from hpcml.sync.server.record import Record
from hpcml.sync.server.store import KeyValue

OwnPacePlan = ParameterServer | GossipLearning
"""Strategies whose workers do not step together."""

__all__ = [
    "ASP",
    "BAP",
    "BSP",
    "SSP",
    "TAP",
    "Consistency",
    "Downpour",
    "ElasticWorker",
    "GossipLearning",
    "Gradients",
    "KeyValue",
    "OwnPacePlan",
    "ParameterServer",
    "Record",
]
