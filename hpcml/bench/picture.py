"""A report of collectives as a picture, where matplotlib is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpcml.bench.sizes import counted, shown_bytes

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#994f00", "#555555")
"""Paul Tol's bright scheme, told apart by readers who do not see all colours."""


def draw(report: dict[str, Any], path: Path) -> bool:
    """Draw GB/s over the size, a line a road and dashed ones for the limits, into a PNG; return False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys((row["limit"], row["name"]) for row in report["rows"]))
    for number, (limit, name) in enumerate(names):
        rows = sorted((row for row in report["rows"] if row["name"] == name), key=lambda row: row["bytes"])
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": "osD^vP"[number // len(COLOURS)], "markersize": 4}
        if limit:
            style = {"color": "black", "linestyle": ["--", ":", "-."][number % 3], "linewidth": 1}
        axes.plot([row["bytes"] for row in rows], [row["gigabytes_per_second"] for row in rows], label=name, **style)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    sizes = sorted({row["bytes"] for row in report["rows"]})
    axes.set_xticks(sizes, [shown_bytes(size) for size in sizes])
    axes.set_xlabel("vector")
    axes.set_ylabel("GB/s of vector, slowest rank, median")
    world = ", ".join(counted(report[f"{noun}s"], noun) for noun in ("rank", "node", "core"))
    axes.set_title(f"all-reduce of {report['dtype']}: {world}")
    axes.grid(True, alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=120)
    return True
