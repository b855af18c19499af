"""Every strategy on the digits: accuracy, bytes, time, waiting, and what a straggler costs. Writes the tables of docs/strategies.md.

    mpirun -n 4 python benchmarks/strategies.py [--epochs 30] [--only "local steps,DiLoCo"]

Rows go to the screen and to benchmarks/results/strategies.json; with all strategies also into the document.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import hpcml
from hpcml.bench.strategies import STRATEGIES, Outcome, straggle, train
from hpcml.comm.topologies import ONE_PEER, RING
from hpcml.sync import Delayed, Elastic, EveryStep, Gossip, LocalSteps, Plan
from hpcml.sync.arrivals import Drawn, Recorded
from hpcml.train.conditions import conditions, fix_blas_threads, versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = Path(__file__).parent / "results" / "strategies.json", ROOT / "docs" / "strategies.md"
GOAL = 0.96


def racers(workers: int, steps: int) -> dict[str, tuple[Plan, Plan]]:
    """Return what runs against a straggler: each strategy where one worker is always slow, and where all are in turn."""
    both: dict[str, Plan] = {
        "every step": EveryStep(),
        "one step late": Delayed(),
        "local steps": LocalSteps(8),
        "elastic (EASGD)": Elastic(8),
        "gossip, ring": Gossip(RING),
        "gossip, one peer": Gossip(ONE_PEER),
        "gossip, ring, every 8": Gossip(RING, every=8),
    }
    turns = tuple(tuple([w for w in range(workers) if w != step % workers] + [step % workers]) for step in range(steps))
    backup = (EveryStep(spare=1, arrivals=Drawn(slow=(workers - 1,))), EveryStep(spare=1, arrivals=Recorded(turns)))
    return {name: (plan, plan) for name, plan in both.items()} | {"1 backup worker": backup}


def race(comm, work: float, steps: int) -> dict[str, dict[str, float]]:
    """Return seconds a step of each strategy: nobody slow, one worker always five times slower, every worker in turn."""
    slow: dict[str, Callable[[int], int] | None] = {
        "nobody": None,
        "always one": lambda step: comm.size - 1,
        "in turn": lambda step: step % comm.size,
    }
    found = {}
    for name, plans in racers(comm.size, steps).items():
        straggle(plans[0], comm, work, steps // 4, None)  # warms up
        found[name] = {who: straggle(plans[who == "in turn"], comm, work, steps, which) for who, which in slow.items()}
    return found


def main() -> int:
    """Train with each strategy, race each, and report on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--only", default="", help="names, joined by commas")
    args = parser.parse_args()
    comm = hpcml.init()
    fix_blas_threads(comm.size, exact=True)
    names = [name for name in STRATEGIES if not args.only or name in args.only.split(",")]
    outcomes = {}
    for name in names:
        folder = Path(comm.broadcast_bytes(tempfile.mkdtemp(prefix="hpcml-").encode() if comm.rank == 0 else b"").decode())
        outcomes[name] = train(ROOT / "jobs" / "digits.toml", [f"train.epochs={args.epochs}", *STRATEGIES[name]], comm, folder)
        if comm.rank == 0:
            print(
                f"{name:26} {outcomes[name].accuracy:.4f} {outcomes[name].sent / 1e6:8.1f} MB {outcomes[name].seconds:6.2f} s", flush=True
            )
    times = race(comm, 0.01, 64)
    if comm.rank == 0:
        rows = {name: asdict(outcome) | {"settings": STRATEGIES[name]} for name, outcome in outcomes.items()}
        kept = {"date": time.strftime("%Y-%m-%d"), "ranks": comm.size, "epochs": args.epochs, "strategies": rows, "seconds a step": times}
        RESULTS.write_text(json.dumps(kept | {"conditions": conditions(), "versions": versions()}, indent=1) + "\n")
        text = f"{accuracy_table(outcomes)}\n{race_table(times)}"
        print(text, flush=True)
        if not args.only:
            write(text, comm.size, args.epochs)
    comm.barrier()
    return 0


def accuracy_table(outcomes: dict[str, Outcome]) -> str:
    """Return the strategies' table as Markdown."""
    reference = outcomes.get("every step", next(iter(outcomes.values())))
    lines = ["| strategy | settings | test accuracy | MB sent | of every step | seconds | waited | apart | stale |", "|" + "---|" * 9]
    for name, found in outcomes.items():
        conits = found.conits or {"value": 0.0, "mean_staleness": 0.0}
        shown = f"{found.accuracy:.3f}" if found.accuracy >= GOAL else f"**{found.accuracy:.3f}**"
        settings = ", ".join(f"`{change}`" for change in STRATEGIES[name])
        lines.append(
            f"| {name} | {settings} | {shown} | {found.sent / 1e6:.1f} | {found.sent / reference.sent:.3f} | {found.seconds:.2f}"
            f" | {found.waited:.0%} | {conits['value']:.3g} | {conits['mean_staleness']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def race_table(times: dict[str, dict[str, float]]) -> str:
    """Return what a straggler costs as Markdown: the share of its own throughput that a strategy loses."""
    lines = ["| strategy | lost to one worker 5x slower, always the same | lost when every worker is slow in turn |", "|---|---|---|"]
    for name, found in times.items():
        lost = [1 - found["nobody"] / found[who] for who in ("always one", "in turn")]
        lines.append(f"| {name} | {lost[0]:.0%} | {lost[1]:.0%} |")
    return "\n".join(lines) + "\n"


def write(text: str, ranks: int, epochs: int) -> None:
    """Put the tables between their marks in the document."""
    page = PAGE.read_text()
    head, foot = "<!-- tables: make compare-strategies -->\n", "<!-- end of tables -->"
    before, _, rest = page.partition(head)
    _, _, after = rest.partition(foot)
    told = f"Measured on {time.strftime('%Y-%m-%d')}: {ranks} ranks of one worker each, {epochs} epochs of jobs/digits.toml.\n\n"
    PAGE.write_text(f"{before}{head}{told}{text}{foot}{after}")


if __name__ == "__main__":
    sys.exit(main())
