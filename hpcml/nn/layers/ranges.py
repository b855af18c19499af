"""Rows whose numbers stand for units between off and on."""

from __future__ import annotations

from hpcml.arrays import Array
from hpcml.errors import TargetError


def require_range(layer: str, x: Array, highest: float) -> None:
    """Raise TargetError, with the first such row, if a number of x (B, d) is below 0 or above `highest`; waits for a device."""
    if x.size and not (float(x.min()) >= 0 and float(x.max()) <= highest):
        row = int((~((x >= 0) & (x <= highest))).any(axis=1).argmax())
        wrong = float(x[row].min()) if not float(x[row].min()) >= 0 else float(x[row].max())
        text = f"{layer} takes numbers from 0 (off) to {highest:g} (on), a row holds {wrong:g}"
        raise TargetError(f"{text}; set model.highest to the largest number of the features, or mend the data", row=row)
