"""What waiting costs where ranks outnumber cores: until an answer, or the end of a fence; CPU time of who waits; products beside letters.

    python benchmarks/waiting.py [--ranks 4] [--seconds 1] [--rounds 5]

A rank is as under a parameter server: a main thread, and beside it the thread that takes letters. Prints medians over the rounds of the
ranks' means, and keeps them in benchmarks/results/waiting.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ranks import start

if TYPE_CHECKING:
    from hpcml.comm.communicator import Communicator

RESULTS = Path(__file__).parent / "results" / "waiting.json"
SIZES = (64, 1 << 20)


def main() -> int:
    """Start the ranks, or be one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4, help="an even number")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        return measure(args)
    return start(args.ranks, "--rank")


def measure(args: argparse.Namespace) -> int:
    """Measure all in turn, round after round; rank 0 reports."""
    import hpcml

    comm = hpcml.init()
    rank, rounds = Rank(comm, args.seconds), list[dict[str, float]]()
    for _ in range(args.rounds):
        rounds.append(rank.round())
    rank.post.mail.close()
    if comm.rank == 0:
        rows = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
        for name, value in rows.items():
            print(f"{value:10.3f}  {name}", flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        kept = {"ranks": comm.size, "cores": os.cpu_count(), "host": platform.machine(), "rounds": args.rounds, "rows": rows}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    return 0


class Rank:
    """One rank, which measures together with the others."""

    def __init__(self, comm: Communicator, seconds: float) -> None:
        """Open its letter box; every rank calls it."""
        from hpcml.sync.server.post import Post

        self.comm, self.seconds, self.came = comm, seconds, list[np.ndarray]()
        self.post = Post(comm.mail(), lambda source, letter: self.came.append(letter), comm.threaded)
        self.inside, _ = comm.by_node()
        self.inside.shared_blocks(64)

    def round(self) -> dict[str, float]:
        """Return each measurement once."""
        comm, waits = self.comm, self.comm.rank % 2 == 1
        alone = self.mean(self.products())
        halved = self.mean(0.0 if waits else self.products(), sleeping=waits)
        self.post.begin()
        rows = {f"microseconds until an answer of {size} bytes": self.mean(1e6 * self.answer(size)) for size in SIZES}
        rows["products, of those without a thread beside"] = self.mean(self.products()) / alone
        rows["products with a letter each 5 ms, of those without any"] = self.mean(self.products(self.exchange)) / alone
        before, end = time.process_time(), time.perf_counter() + self.seconds
        if waits:
            self.post.wait(lambda: time.perf_counter() > end)
        spent = (time.process_time() - before) / self.seconds if waits else 0.0
        half = 0.0 if waits else self.products()
        rows["products while every other rank waits, of those while it sleeps"] = self.mean(half) / halved
        rows["CPU seconds a second of a rank that waits"] = self.mean(spent) * comm.size / (comm.size // 2)
        self.post.finish()
        late, waiting = self.fences()
        rows["microseconds from the last rank's coming to a fence until the others leave it"] = self.mean(1e6 * late)
        rows["CPU seconds a second of a rank that waits at a fence"] = self.mean(waiting)
        return rows

    def fences(self, late: float = 0.02) -> tuple[float, float]:
        """Return how long fences took to end once the rank that was late had come, and CPU seconds a second of waiting for it."""
        from hpcml.comm.communicator import Op

        ends, cpu, waited = list[float](), 0.0, 0.0
        for turn in range(int(25 * self.seconds)):
            mine = turn % self.comm.size == self.comm.rank
            self.comm.barrier()
            time.sleep(late * mine)
            came, before = np.array([time.perf_counter()]), time.process_time()
            self.inside.fence()
            left, spent = time.perf_counter(), time.process_time() - before
            begin = float(came[0])
            self.comm.all_reduce(came, Op.MAX)
            if not mine:
                ends.append(left - float(came[0]))
                cpu, waited = cpu + spent, waited + left - begin
        return statistics.median(ends), cpu / waited

    def mean(self, value: float, sleeping: bool = False) -> float:
        """Return the mean over the ranks."""
        if sleeping:
            time.sleep(self.seconds)
        total = np.array([value])
        self.comm.all_reduce(total)
        return float(total[0]) / self.comm.size

    def products(self, between: Callable[[], None] = lambda: None) -> float:
        """Return matrix products a second of this rank, with something to do each 5 ms."""
        x, count = np.ones((128, 128)), 0
        now = then = begin = time.perf_counter()
        while now < begin + self.seconds:
            x @ x
            count += 1
            now = time.perf_counter()
            if now > then + 0.005:
                between()
                then = now
        return count / (now - begin)

    def exchange(self) -> None:
        """Send a letter of 64 bytes to the next rank, and give back what came."""
        while self.came:
            self.post.mail.give_back(self.came.pop())
        self.post.send((self.comm.rank + 1) % self.comm.size, self.post.mail.buffer(64))

    def answer(self, nbytes: int) -> float:
        """Return the median seconds from a letter to its answer between neighbours; the odd rank answers."""
        peer, found = self.comm.rank ^ 1, list[float]()
        self.comm.barrier()
        self.came.clear()
        self.comm.barrier()
        for _ in range(int(300 * self.seconds)):
            begin = time.perf_counter()
            if self.comm.rank < peer:
                self.post.send(peer, self.post.mail.buffer(nbytes))
            self.post.wait(lambda: bool(self.came))
            letter = self.came.pop()
            if self.comm.rank > peer:
                self.post.send(peer, letter)
            else:
                self.post.mail.give_back(letter)
            found.append(time.perf_counter() - begin)
        return statistics.median(found)


if __name__ == "__main__":
    sys.exit(main())
