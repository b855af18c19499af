"""Which road to take, from (bytes, ranks, nodes): by a table measured on the allocation itself, else by a plain rule.

    table = load_table(comm, table_path(os.environ))     # collective; None where nothing was measured
    run = automatic(table, say)(comm, x)                 # a road like any other; says which one it chose, and why

`hpcml bench collectives --tune` writes the table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcml.arrays import Array
from hpcml.comm.communicator import Communicator
from hpcml.comm.roads import ROADS, Road, node_numbers, truly_summed
from hpcml.errors import ConfigError

FLOOR = 16 * 1024
"""Bytes below which the library's own all-reduce is taken unmeasured: there its C loop beats any rounds driven from Python."""

RULE_FROM = 4 << 20
"""Bytes from which the rule prefers a road of ours."""

LIBRARY = "all-reduce"
MARGIN = 0.95
"""A road must need less than this part of the library's time: what is not clearly faster is noise."""

DEFAULT_PATH = "runs/collectives.json"
VARIABLE = "HPCML_COLLECTIVES"


@dataclass(frozen=True, slots=True)
class Table:
    """What was measured: seconds of each road at each size in bytes, on so many ranks of so many nodes."""

    ranks: int
    nodes: int
    hosts: tuple[str, ...]
    seconds: Mapping[str, Mapping[int, float]]

    @classmethod
    def from_json(cls, text: str, where: str) -> Table:
        """Return the table in a report of ``hpcml bench collectives``.

        Raises:
            ConfigError: naming `where` if it is not such a report.
        """
        try:
            report = json.loads(text)
            seconds: dict[str, dict[int, float]] = {}
            for row in report["rows"]:
                if row["name"] in ROADS:
                    seconds.setdefault(row["name"], {})[int(row["bytes"])] = float(row["seconds"])
            if any(not value > 0 for times in seconds.values() for value in times.values()):
                raise ValueError("a time is not positive")
            return cls(int(report["ranks"]), int(report["nodes"]), tuple(report["hosts"]), seconds)
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{where}: no table of collectives ({error!r}); measure it again with `hpcml bench collectives --tune`"
            ) from error

    def estimate(self, nbytes: int) -> dict[str, float]:
        """Return each road's seconds for this many bytes, between two measured sizes along the straight line of their logarithms.

        Only roads that were measured at every size are compared.
        """
        most = max((len(times) for times in self.seconds.values()), default=0)
        found = {}
        for name, times in self.seconds.items():
            if len(times) == most:
                sizes = sorted(times)
                logs = [math.log(times[size]) for size in sizes]
                found[name] = float(np.exp(np.interp(math.log(max(nbytes, 1)), np.log(sizes), logs)))
        return found


@dataclass(frozen=True, slots=True)
class Choice:
    """A road's name, and why it was chosen."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def choose(nbytes: int, ranks: int, nodes: int, table: Table | None = None) -> Choice:
    """Return the road for vectors of this many bytes: equal arguments, equal choice, so every rank chooses alike."""
    if ranks == 1:
        return Choice(LIBRARY, "one rank")
    if nbytes < FLOOR:
        return Choice(LIBRARY, f"below {FLOOR // 1024} KB")
    if table is None:
        return Choice(rule(nbytes, ranks, nodes), "by rule; `hpcml bench collectives --tune` measures")
    if (table.ranks, table.nodes) != (ranks, nodes):
        measured = f"the table is of {table.ranks} ranks on {table.nodes} nodes, this world has {ranks} on {nodes}"
        return Choice(rule(nbytes, ranks, nodes), f"by rule: {measured}")
    times = table.estimate(nbytes)
    if not times:
        return Choice(rule(nbytes, ranks, nodes), "by rule: the table has no rows")
    best = min(times, key=lambda name: times[name])
    if LIBRARY in times and times[best] > MARGIN * times[LIBRARY]:
        best = LIBRARY
    return Choice(best, f"measured on {', '.join(table.hosts)}: {times[best] * 1e6:,.0f} us")


def rule(nbytes: int, ranks: int, nodes: int) -> str:
    """Return the road for a world that was not measured.

    Below 4 MB the library's C loop is as good as any rounds driven from Python. Above, in one node, a ring was 1.0 to 2.5 times as fast
    as the two free MPI libraries, on 2 and 4 ranks. Over several nodes nothing was measured: lanes are taken where nodes have several
    ranks, since they send the fewest bytes through every port, and the library's road where a node has one.
    """
    if nbytes < RULE_FROM:
        return LIBRARY
    if nodes == 1:
        return "ring"
    return "lanes" if ranks >= 2 * nodes else LIBRARY


def automatic(table: Table | None, say: Callable[[str], None] = lambda text: None) -> Road:
    """Return the road that chooses a road for the vector it is given, and says so once, on every rank."""

    @truly_summed
    def road(comm: Communicator, x: Array) -> Callable[[], None]:
        choice = choose(x.nbytes, comm.size, len(set(node_numbers(comm))), table)
        say(f"auto: {choice} for {x.nbytes:,} bytes on {comm.size} ranks")
        return ROADS[choice.name](comm, x)

    return road


def table_path(environment: Mapping[str, str]) -> Path:
    """Return where the table stands: $HPCML_COLLECTIVES, else runs/collectives.json."""
    return Path(environment.get(VARIABLE) or DEFAULT_PATH)


def load_table(comm: Communicator, path: Path) -> Table | None:
    """Return the table that rank 0 finds at this path, the same on every rank; None if there is no such file.

    Raises:
        ConfigError: on every rank, if the file cannot be read or is no table.
    """
    text = b""
    with comm.together():
        if comm.rank == 0 and path.exists():
            try:
                text = path.read_bytes()
                Table.from_json(text.decode(), str(path))
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"{path}: no table of collectives ({error}); measure it again with `hpcml bench collectives --tune`"
                ) from error
    text = comm.broadcast_bytes(text)
    return Table.from_json(text.decode(), str(path)) if text else None


def crossovers(table: Table, sizes: Sequence[int]) -> list[tuple[int, Choice]]:
    """Return the sizes, of those given in rising order, at which the choice changes, each with the new choice."""
    found: list[tuple[int, Choice]] = []
    for size in sizes:
        choice = choose(size, table.ranks, table.nodes, table)
        if not found or found[-1][1].name != choice.name:
            found.append((size, choice))
    return found
