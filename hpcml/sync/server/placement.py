"""Which rank hosts which workers and shards.

Letters: V workers, S shards, P ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcml.arrays import spans


@dataclass(frozen=True, slots=True)
class Placement:
    """Which rank hosts which workers and shards.

    Args:
        workers: the run of workers of each rank.
        shards: the run of shards of each rank.
    """

    workers: list[slice]
    shards: list[slice]

    @staticmethod
    def of(servers: int | None, workers: int, ranks: int) -> Placement:
        """Return the placement: the first ranks serve and do not compute, if there are more ranks than servers; else all do both."""
        if servers is not None and servers < ranks:
            return Placement(
                [*[slice(0, 0)] * servers, *spans(workers, ranks - servers)],
                [*(slice(s, s + 1) for s in range(servers)), *[slice(servers, servers)] * (ranks - servers)],
            )
        return Placement(spans(workers, ranks), spans(servers or workers, ranks))

    def homes(self) -> list[int]:
        """Return the rank of each shard."""
        return [rank for rank, run in enumerate(self.shards) for _ in range(run.start, run.stop)]

    def desks(self) -> list[int]:
        """Return the rank of each worker."""
        return [rank for rank, run in enumerate(self.workers) for _ in range(run.start, run.stop)]
