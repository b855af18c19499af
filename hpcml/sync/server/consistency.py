"""How far workers may run apart: the consistency models of a parameter server, as frozen descriptions.

    BSP()            nobody reads before all have written: synchronous SGD, to the bit
    SSP(bound)       at clock c a worker reads when every worker has written the clocks before c - bound
    ASP(v, bound)    SSP whose writes keep back what is not significant: entries whose update is below v / sqrt(clock) of their value;
                     with regions between these alone: inside one everything is written, and a bound of its own holds
    BAP()            a worker waits for the answer to its own write, and for nobody else
    TAP()            a worker waits for nothing: it goes on with what has arrived

Letters: c clocks; a worker's clock is the number of its writes that were taken in this epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpcml.arrays import spans
from hpcml.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Consistency:
    """What a worker waits for before it goes on, and what it writes.

    Args:
        bound: clocks that a worker may be ahead of the slowest; None for no bound.
        awaits: whether a worker waits for the answer to its own write.
        threshold: v of the significance filter; 0 writes everything.
        regions: of workers and shards, inside which links are fast and nothing is filtered; 0: every link is slow.
        inside: clocks that a worker may be ahead of the slowest of its region; None: as far as `bound` lets it.
    """

    bound: int | None
    awaits: bool = True
    threshold: float = 0.0
    regions: int = 0
    inside: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.bound is not None and self.bound < 0:
            raise ConfigError(f"server.bound is {self.bound}; a worker may be 0 or more clocks ahead (0 is bulk synchronous)")
        if self.bound is not None and not self.awaits:
            raise ConfigError(f"a bound of {self.bound} clocks needs workers that wait; choose ssp, or tap without a bound")
        if not 0 <= self.threshold < math.inf:
            raise ConfigError(f"server.threshold is {self.threshold}; it must be 0 (everything is written) or more, such as 0.01")
        if self.regions < 0:
            raise ConfigError(f"server.regions is {self.regions}; give 0 (every link is slow) or more")
        if self.inside is not None and (not self.regions or self.bound is None or not 0 <= self.inside <= self.bound):
            text = f"server.inside is {self.inside}, the bound inside each of server.regions = {self.regions}"
            raise ConfigError(f"{text}; give 0 to server.bound = {self.bound}, and 1 region or more")

    @property
    def whole(self) -> bool:
        """Whether writes are taken clock by clock, all workers' of a clock at once: then the order of arrival decides nothing."""
        return self.bound == 0


def BSP() -> Consistency:
    """Return bulk synchronous parallel: SSP without slack. Valiant, A bridging model for parallel computation, CACM 1990."""
    return SSP(0)


def SSP(bound: int) -> Consistency:
    """Return stale synchronous parallel. Ho et al., More effective distributed ML via a stale synchronous parallel server, NIPS 2013."""
    return Consistency(bound)


def ASP(threshold: float = 0.01, bound: int = 8, regions: int = 0, inside: int | None = None) -> Consistency:
    """Return approximate synchronous parallel; bound is its mirror clock's, regions its data centres. Hsieh et al., Gaia, NSDI 2017."""
    return Consistency(bound, threshold=threshold, regions=regions, inside=inside)


def regions_of(count: int, regions: int) -> list[int]:
    """Return the region of each of so many writers or shards, in runs: also of ranks, whose order is that of the nodes."""
    return [region for region, run in enumerate(spans(count, regions)) for _ in range(run.start, run.stop)]


def BAP() -> Consistency:
    """Return barrierless asynchronous parallel: local barriers alone. Han and Daudjee, Giraph Unchained, VLDB 2015."""
    return Consistency(None)


def TAP() -> Consistency:
    """Return total asynchronous parallel. Recht et al., Hogwild, NIPS 2011; Dean et al., DistBelief, NIPS 2012."""
    return Consistency(None, awaits=False)


def far(writers: list[int], shards: list[int]) -> list[list[bool]]:
    """Return, for each writer's region, whether each shard's is another one."""
    return [[mine != theirs for theirs in shards] for mine in writers]
