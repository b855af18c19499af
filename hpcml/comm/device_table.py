"""Which road a device array takes, chosen from trials: pure arithmetic over rows of measurements.

A road is "staged" (through pinned host memory), "direct" (handed to the MPI library) or "nccl". A trial is one operation on one road at one
size, with its seconds if the values were right. A table says, for each operation, from how many bytes on which road is the fastest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from hpcml.errors import ConfigError

STAGED, DIRECT, NCCL = "staged", "direct", "nccl"
ROADS = (STAGED, DIRECT, NCCL)
OPERATIONS = ("all_reduce", "broadcast", "all_gather", "exchange")


@dataclass(frozen=True, slots=True)
class Trial:
    """One operation on one road at one size: median seconds of the slower rank, or what went wrong."""

    operation: str
    road: str
    nbytes: int
    seconds: float
    fault: str = ""


@dataclass(frozen=True, slots=True)
class DeviceTable:
    """For each operation the roads by size: (from how many bytes, road), sorted, the first from 0."""

    choices: dict[str, list[tuple[int, str]]]

    def pick(self, operation: str, nbytes: int) -> str:
        """Return the road of an operation at a size; staged where nothing is known."""
        road = STAGED
        for least, name in self.choices.get(operation, []):
            if nbytes >= least:
                road = name
        return road

    def lines(self) -> list[str]:
        """Return the table in words, a line an operation."""
        shown = {name: ", ".join(f"{road} from {least:,} bytes" for least, road in rows) for name, rows in self.choices.items()}
        return [f"{name}: {text}" for name, text in shown.items()]


def choose(trials: Iterable[Trial], roads: Sequence[str] = ROADS) -> DeviceTable:
    """Return the table of the fastest roads; a road with a single fault in an operation is not used for it at any size.

    An exchange takes one road at all sizes, the one with the smallest worst ratio to the fastest: its two halves may differ in size, and
    their partners must take the same road. Sizes between two trials take the road of the nearer one, by ratio.

    Args:
        trials: of any roads.
        roads: those that may be chosen.
    """
    rows = [trial for trial in trials if trial.road in roads]
    faulty = {(trial.operation, trial.road) for trial in rows if trial.fault}
    seconds: dict[str, dict[int, dict[str, float]]] = {}
    for trial in rows:
        if (trial.operation, trial.road) not in faulty:
            seconds.setdefault(trial.operation, {}).setdefault(trial.nbytes, {})[trial.road] = trial.seconds
    table = {}
    for operation, sizes in seconds.items():
        if operation == "exchange":
            table[operation] = [(0, _everywhere_good(sizes))]
        else:
            table[operation] = _by_size({size: min(times, key=lambda road: times[road]) for size, times in sizes.items()})
    return DeviceTable(table)


def _everywhere_good(sizes: dict[int, dict[str, float]]) -> str:
    known = [road for road in ROADS if all(road in times for times in sizes.values())]
    if not known:
        return STAGED
    return min(known, key=lambda road: max(times[road] / min(times.values()) for times in sizes.values()))


def _by_size(fastest: dict[int, str]) -> list[tuple[int, str]]:
    rows: list[tuple[int, str]] = []
    before = 0
    for size in sorted(fastest):
        if not rows or rows[-1][1] != fastest[size]:
            rows.append((round((before * size) ** 0.5) if rows else 0, fastest[size]))
        before = size
    return rows


def to_json(trials: Sequence[Trial], place: str, hosts: int) -> str:
    """Return trials as JSON, with the place they hold for and the number of hosts they ran over."""
    return json.dumps({"place": place, "hosts": hosts, "trials": [asdict(trial) for trial in trials]}, indent=1) + "\n"


def from_json(text: str, path: str) -> tuple[list[Trial], str, int]:
    """Return the trials, place and number of hosts of a file's text.

    Raises:
        ConfigError: naming the file, if it is none of ours.
    """
    try:
        kept = json.loads(text)
        return [Trial(**row) for row in kept["trials"]], str(kept["place"]), int(kept["hosts"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a table of device roads ({error}); make it again with `hpcml probe`") from error
