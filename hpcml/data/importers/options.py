"""What a user may say about files that are imported."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hpcml.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Options:
    """How to read the sources; what a format has no use for is ignored by it.

    Args:
        format: one of FORMATS, or "" to tell by the name.
        label: the column of a table that becomes y; "" for none.
        features: columns that become x (arrays of an NPZ that are taken); () for all others.
        keep: columns that become fields of their own, under their names.
        missing: the number that stands for an empty cell, or None to refuse empty cells.
        header: whether the first line of a CSV names the columns.
        delimiter: of a CSV; "" for a tab in .tsv, a comma else.
        dtype: of x, and of a y that is not whole numbers.
        size: (height, width) that images are brought to, or None to demand one size.
        mode: Pillow's name of what images are converted to, or "" to demand one kind.
    """

    format: str = ""
    label: str = ""
    features: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    missing: float | None = None
    header: bool = True
    delimiter: str = ""
    dtype: str = "float32"
    size: tuple[int, int] | None = None
    mode: str = ""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ConfigError: for an unknown format, a dtype that is not floating, a delimiter of several characters, a name used twice.
        """
        if self.format and self.format not in FORMATS:
            raise ConfigError(f"format {self.format!r}; choose one of {', '.join(FORMATS)}")
        if self.dtype not in ("float16", "float32", "float64"):
            raise ConfigError(f"dtype {self.dtype!r}; choose float32, float64 or float16")
        if self.delimiter and len(self.delimiter) != 1:
            raise ConfigError(f"delimiter {self.delimiter!r} has {len(self.delimiter)} characters; give one, such as ';'")
        names = [*self.features, *self.keep, *([self.label] if self.label else [])]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"column {twice!r} is asked for twice; it can be a feature, the label, or kept")
        if set(self.keep) & {"x", "y"}:
            raise ConfigError("a kept column may not be called x or y, which are the features and the label")

    def plain(self) -> dict[str, Any]:
        """Return the options as plain data."""
        return asdict(self) | {"missing": None if self.missing is None else repr(self.missing)}

    @property
    def real(self) -> np.dtype[Any]:
        """The dtype of features."""
        return np.dtype(self.dtype)


FORMATS = ("csv", "npy", "npz", "idx", "images", "parquet")
