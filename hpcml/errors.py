"""The error tree of hpcml.

    HpcmlError
    |-- ConfigError          ValueError       a configuration that cannot be run
    |-- DataError            ValueError       rows that cannot be used: not finite, out of range
    |   |-- TargetError                       a target or token that loss or model cannot use
    |   `-- ShardError       OSError          a shard file that cannot be read as the layout in data/shards.py
    |-- ShapeError           ValueError       layers or arrays that do not fit together
    |-- NumericsError        ArithmeticError  a loss or gradient that is not finite
    |-- DeviceError          RuntimeError     a device that is not there or cannot be used
    |-- CommError            RuntimeError     ranks that cannot work together
    |   |-- LaunchError                       a world that is not what the launcher promised
    |   `-- DisagreementError                 ranks that hold different values where all must be equal
    |-- CheckpointError      RuntimeError     a checkpoint that is corrupt, or of another run
    |-- RunError             RuntimeError     a run folder that cannot be used
    `-- ExportError          ValueError       a model that cannot be exported, or weights from outside that do not fit it

A message says what was expected, what came, where (rank, file, key) and what to do.
An error that every rank raises at the same point carries ``everywhere = True``: the world may end in order.
An error without it was seen by one rank alone: the others wait for it, so the world must be aborted.
"""

from __future__ import annotations


class HpcmlError(Exception):
    """Base of every error that hpcml raises on purpose."""

    everywhere: bool = False


class ConfigError(HpcmlError, ValueError):
    """A configuration that cannot be run."""


class DataError(HpcmlError, ValueError):
    """Rows that cannot be used."""


class TargetError(DataError):
    """A target that the loss, or a token that the model cannot use; ``row`` is its place in the batch."""

    def __init__(self, text: str, *, row: int) -> None:
        """Keep the text and the row."""
        super().__init__(text)
        self.row = row


class ShardError(DataError, OSError):
    """A shard file that cannot be read as the layout in ``data/shards.py``."""


class DamagedShardError(ShardError):
    """A shard file that HDF5 cannot open, or whose metadata it cannot walk: none of its rows is known."""


class ShapeError(HpcmlError, ValueError):
    """Layers or arrays that do not fit together."""


class NumericsError(HpcmlError, ArithmeticError):
    """A loss or gradient that is not finite; ``place`` is after how many sums over all workers it arose: the lowest is the cause."""

    def __init__(self, text: str, *, place: int = 0) -> None:
        """Keep the text and the place."""
        super().__init__(text)
        self.place = place


class DeviceError(HpcmlError, RuntimeError):
    """A device that is not there or cannot be used."""


class CommError(HpcmlError, RuntimeError):
    """Ranks that cannot work together."""


class LaunchError(CommError):
    """A world that is not what the launcher promised."""


class DisagreementError(CommError):
    """Ranks that hold different values where all must be equal."""


class CheckpointError(HpcmlError, RuntimeError):
    """A checkpoint that is corrupt, or belongs to another run."""


class RunError(HpcmlError, RuntimeError):
    """A run folder that cannot be used."""


class ExportError(HpcmlError, ValueError):
    """A model that cannot be exported, or weights from outside that do not fit it."""
