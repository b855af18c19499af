"""Training over virtual workers, hosted by MPI ranks: the same answer on any number of ranks.

The public names below are loaded when first used, so that a thousand ranks can import hpcml at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcml import nn as nn
    from hpcml.data import open_shards as open_shards
    from hpcml.exporting import export_onnx as export_onnx
    from hpcml.exporting import export_weights as export_weights
    from hpcml.exporting import load_weights as load_weights
    from hpcml.optim import LAMB as LAMB
    from hpcml.optim import LARS as LARS
    from hpcml.optim import SGD as SGD
    from hpcml.optim import AdamW as AdamW
    from hpcml.optim import Clipped as Clipped
    from hpcml.sync import SUMS as SUMS
    from hpcml.sync import Delayed as Delayed
    from hpcml.sync import Elastic as Elastic
    from hpcml.sync import Ensemble as Ensemble
    from hpcml.sync import EveryStep as EveryStep
    from hpcml.sync import Gossip as Gossip
    from hpcml.sync import LocalSteps as LocalSteps
    from hpcml.sync import WarmStart as WarmStart
    from hpcml.sync.server import KeyValue as KeyValue
    from hpcml.train import Hook as Hook
    from hpcml.train import Saving as Saving
    from hpcml.train import Trainer as Trainer
    from hpcml.train import init as init

__version__ = "0.1.0"

_HOMES = {
    "init": "hpcml.train",
    "Trainer": "hpcml.train",
    "Saving": "hpcml.train",
    "Hook": "hpcml.train",
    "open_shards": "hpcml.data",
    "export_onnx": "hpcml.exporting",
    "export_weights": "hpcml.exporting",
    "load_weights": "hpcml.exporting",
    "SGD": "hpcml.optim",
    "AdamW": "hpcml.optim",
    "LAMB": "hpcml.optim",
    "LARS": "hpcml.optim",
    "Clipped": "hpcml.optim",
    "EveryStep": "hpcml.sync",
    "LocalSteps": "hpcml.sync",
    "Delayed": "hpcml.sync",
    "Elastic": "hpcml.sync",
    "Ensemble": "hpcml.sync",
    "Gossip": "hpcml.sync",
    "WarmStart": "hpcml.sync",
    "SUMS": "hpcml.sync",
    "KeyValue": "hpcml.sync.server",
}
_ROOMS = ("nn", "optim", "sync", "data", "comm", "train")

__all__ = [*_HOMES, *_ROOMS, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return import_module(f"hpcml.{name}")
    raise AttributeError(f"module 'hpcml' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
