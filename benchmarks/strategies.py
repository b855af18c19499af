"""Every strategy on the digits: accuracy, bytes, time, waiting, stragglers. Writes tables of docs/strategies.md and parameter-server.md.

    mpirun -n 4 python benchmarks/strategies.py [--epochs 30] [--only "local steps;DiLoCo"]

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
from hpcml.bench.strategies import OWN_PACE, STRATEGIES, Outcome, straggle, train, train_own_pace
from hpcml.comm.topologies import ONE_PEER, RING
from hpcml.sync import Delayed, Elastic, EveryStep, Gossip, LocalSteps, Plan
from hpcml.sync.arrivals import Drawn, Recorded
from hpcml.train.conditions import conditions, fix_blas_threads, versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "strategies.json"
PAGE, SERVER_PAGE = ROOT / "docs" / "strategies.md", ROOT / "docs" / "parameter-server.md"
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
    parser.add_argument("--only", default="", help="names, joined by semicolons")
    args = parser.parse_args()
    comm = hpcml.init()
    fix_blas_threads(comm.size, exact=True)
    outcomes, own_pace = learn(comm, train, STRATEGIES, args), learn(comm, train_own_pace, OWN_PACE, args)
    times = race(comm, 0.01, 64)
    if comm.rank == 0:
        changes = STRATEGIES | OWN_PACE
        rows = {name: asdict(outcome) | {"settings": changes[name]} for name, outcome in (outcomes | own_pace).items()}
        kept = {"date": time.strftime("%Y-%m-%d"), "ranks": comm.size, "epochs": args.epochs, "strategies": rows, "seconds a step": times}
        RESULTS.write_text(json.dumps(kept | {"conditions": conditions(), "versions": versions()}, indent=1) + "\n")
        text = f"{accuracy_table(outcomes)}\n{race_table(times)}" if outcomes else race_table(times)
        print(f"{text}\n{own_pace_table(own_pace)}", flush=True)
        if not args.only:
            write(PAGE, text, comm.size, args.epochs)
            write(SERVER_PAGE, own_pace_table(own_pace), comm.size, args.epochs)
    comm.barrier()
    return 0


def learn(comm, how: Callable[..., Outcome], strategies: dict[str, list[str]], args: argparse.Namespace) -> dict[str, Outcome]:
    """Return what each strategy that was asked for comes to."""
    found = {}
    for name in strategies:
        if args.only and name not in args.only.split(";"):
            continue
        folder = Path(comm.broadcast_bytes(tempfile.mkdtemp(prefix="hpcml-").encode() if comm.rank == 0 else b"").decode())
        found[name] = how(ROOT / "jobs" / "digits.toml", [f"train.epochs={args.epochs}", *strategies[name]], comm, folder)
        if comm.rank == 0:
            print(f"{name:26} {found[name].accuracy:.4f} {found[name].sent / 1e6:8.1f} MB {found[name].seconds:6.2f} s", flush=True)
    return found


def accuracy_table(outcomes: dict[str, Outcome]) -> str:
    """Return the table of strategies in step as Markdown."""
    reference = outcomes.get("every step", next(iter(outcomes.values())))
    lines = ["| strategy | settings | test accuracy | MB sent | of every step | seconds | waited | apart | stale |", "|" + "---|" * 9]
    for name, found in outcomes.items():
        conits = found.conits or {"value": 0.0, "mean_staleness": 0.0}
        share, apart = found.sent / reference.sent, f"{conits['value']:.3g} | {conits['mean_staleness']:.2f}"
        numbers = f"{found.sent / 1e6:.1f} | {share:.3f} | {found.seconds:.2f} | {found.waited:.0%} | {apart}"
        lines.append(f"| {name} | {settings(STRATEGIES[name])} | {accuracy(found)} | {numbers} |")
    return "\n".join(lines) + "\n"


def own_pace_table(outcomes: dict[str, Outcome]) -> str:
    """Return the table of strategies at their own pace as Markdown."""
    lines = ["| strategy | settings | test accuracy | MB sent | seconds | mean clock gap |", "|" + "---|" * 6]
    for name, found in outcomes.items():
        gap = found.conits["mean_staleness"] if found.conits else 0.0
        numbers = f"{found.sent / 1e6:.1f} | {found.seconds:.1f} | {gap:.2f}"
        lines.append(f"| {name} | {settings(OWN_PACE[name])} | {accuracy(found)} | {numbers} |")
    return "\n".join(lines) + "\n"


def settings(changes: list[str]) -> str:
    """Return changes to a job as Markdown."""
    return ", ".join(f"`{change}`" for change in changes)


def accuracy(found: Outcome) -> str:
    """Return a test accuracy as Markdown, bold where it misses the goal."""
    return f"{found.accuracy:.3f}" if found.accuracy >= GOAL else f"**{found.accuracy:.3f}**"


def race_table(times: dict[str, dict[str, float]]) -> str:
    """Return what a straggler costs as Markdown: the share of its own throughput that a strategy loses."""
    lines = ["| strategy | lost to one worker 5x slower, always the same | lost when every worker is slow in turn |", "|---|---|---|"]
    for name, found in times.items():
        lost = [1 - found["nobody"] / found[who] for who in ("always one", "in turn")]
        lines.append(f"| {name} | {lost[0]:.0%} | {lost[1]:.0%} |")
    return "\n".join(lines) + "\n"


def write(path: Path, text: str, ranks: int, epochs: int) -> None:
    """Put tables between their marks in a document."""
    page = path.read_text()
    head, foot = "<!-- tables: make compare-strategies -->\n", "<!-- end of tables -->"
    before, _, rest = page.partition(head)
    _, _, after = rest.partition(foot)
    told = f"Measured on {time.strftime('%Y-%m-%d')}: {ranks} ranks of one worker each, {epochs} epochs of jobs/digits.toml.\n\n"
    path.write_text(f"{before}{head}{told}{text}{foot}{after}")


if __name__ == "__main__":
    sys.exit(main())
