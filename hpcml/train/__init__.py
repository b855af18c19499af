"""The loop and what surrounds it."""

from hpcml.train.hooks import Hook
from hpcml.train.progress import Progress
from hpcml.train.recorder import Recorder
from hpcml.train.saving import Saving
from hpcml.train.start import init
from hpcml.train.trainer import Trainer

__all__ = ["Hook", "Progress", "Recorder", "Saving", "Trainer", "init"]
