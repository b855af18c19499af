"""The suite in one process and, under mpirun, in a whole world: every rank runs the same tests, rank 0 reports.

Under mpirun a test that fails on any rank prints that rank's traceback and aborts the world; a hang prints every stack.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.mpirun import RANK_NAMES
from tests.standing import hpcml, trust_the_power

pytest.register_assert_rewrite("tests.laws")

UNDER_MPIRUN = any(name in os.environ for name in RANK_NAMES)
GRACE = float(os.environ.get("HPCML_TEST_GRACE", "5"))
"""Seconds between the stacks of this rank and its end: others of the world reach their limit a little later."""

# Where an image forbids it, every rank of every world compiles all of hpcml anew: 0.4 s of a start of 0.8 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

trust_the_power()

# No deadline: on a shared machine the time of one example says nothing. Under mpirun all ranks must draw the same examples.
hypothesis.settings.register_profile("one", deadline=None)
hypothesis.settings.register_profile("world", deadline=None, derandomize=True, database=None, max_examples=25)
hypothesis.settings.load_profile("world" if UNDER_MPIRUN else "one")


class World:
    """The part of pytest that knows of other ranks: a plugin registered only under mpirun."""

    def __init__(self, stderr: int) -> None:
        from mpi4py import MPI

        self._comm = MPI.COMM_WORLD
        self._stderr = stderr

    def silence(self, config: pytest.Config) -> None:
        """Let rank 0 alone report the progress."""
        if self._comm.rank == 0:
            return
        loud = config.pluginmanager.get_plugin("terminalreporter")
        config.pluginmanager.unregister(loud)
        null = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
        config.add_cleanup(null.close)
        config.pluginmanager.register(pytest.TerminalReporter(config, null), "terminalreporter")

    def abort(self, what: str) -> None:
        """Print what went wrong here and end every rank."""
        head = f"[rank {self._comm.rank} of {self._comm.size}]"
        text = "".join(f"{head} {line}\n" for line in what.splitlines())
        os.write(self._stderr, text.encode(errors="replace"))
        time.sleep(0.3)  # ranks that fail in the same way print too, and launchers pass it on
        self._comm.Abort(1)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            printed = "\n".join(f"--- {title}\n{text}" for title, text in report.sections)
            self.abort(f"FAILED {report.nodeid} ({report.when})\n{report.longreprtext}\n{printed}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.abort(f"ERROR collecting {report.nodeid}\n{report.longreprtext}")

    def pytest_internalerror(self, excrepr: object) -> None:
        self.abort(f"INTERNAL ERROR\n{excrepr}")


class Limits:
    """The time limit of a test: all stacks at the limit, five times as late if slow, and in a world an end for stragglers."""

    def __init__(self, seconds: float, stderr: int) -> None:
        self._seconds = seconds
        self._stderr = stderr
        self._end: threading.Timer | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        slow = item.get_closest_marker("slow") is not None
        if not slow and not UNDER_MPIRUN:
            return  # pytest's own timer is right
        seconds = self._seconds * (5 if slow else 1)
        # In a world no rank leaves with its own stacks, for mpirun would kill the others before they print theirs.
        faulthandler.dump_traceback_later(seconds, exit=not UNDER_MPIRUN, file=self._stderr)
        if UNDER_MPIRUN:
            self._end = threading.Timer(seconds + GRACE, os._exit, (1,))
            self._end.daemon = True
            self._end.start()

    def pytest_runtest_logfinish(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end.join()
            self._end = None


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over ten thousand collected tests: a whole round of it costs half a second with them."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)  # after pytest has made its reporter
def pytest_configure(config: pytest.Config) -> None:
    stderr = os.dup(2)  # the real one, also while pytest captures
    config.pluginmanager.register(Limits(float(config.getini("faulthandler_timeout")), stderr), "hpcml-limits")
    if UNDER_MPIRUN:
        world = World(stderr)
        promised = os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("PMI_SIZE")
        if promised and int(promised) != world._comm.size:
            pytest.exit(f"mpirun started {promised} ranks, this MPI sees {world._comm.size}: it is the mpirun of another MPI", 1)
        config.pluginmanager.register(world, "hpcml-world")
        _own_temporary_root(config)
        world.silence(config)


def _own_temporary_root(config: pytest.Config) -> None:
    # Several pytests that tidy one root at the same time trip over each other.
    root = tempfile.mkdtemp(prefix="hpcml-rank-")
    os.environ["PYTEST_DEBUG_TEMPROOT"] = root
    config.add_cleanup(lambda: shutil.rmtree(root, ignore_errors=True))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    missing = _missing_gpu()
    if missing and item.config.option.markexpr == "gpu":
        pytest.fail(f"the GPU tests were asked for, but {missing}", pytrace=False)
    if missing:
        pytest.skip(missing)


def _missing_gpu() -> str:
    try:
        import cupy

        cupy.zeros(1)
    except Exception as problem:  # CuPy raises errors of many kinds where there is no GPU
        return f"there is no usable GPU: {type(problem).__name__}: {problem}"
    return ""


@pytest.fixture
def comm() -> Any:
    """The communicator of this real world: of one rank, or of all that mpirun started."""
    from hpcml.comm import world

    return world()


@pytest.fixture
def world() -> Callable[[int, Callable[[Any], Any]], list[Any]]:
    """Run program(comm) on each of n simulated ranks and return their results in order of rank: world(n, program)."""
    from hpcml.comm import simulated

    return simulated.run


@pytest.fixture(params=[1, 2, 3, 4, 5, "aab", "abab", pytest.param("mpi", marks=pytest.mark.mpi)])
def on_every_rank(request: pytest.FixtureRequest) -> Callable[[Callable[[Any], Any]], list[Any]]:
    """Run program(comm) on every rank of one world: simulated, of 1 to 5 ranks on one or two hosts, or under mpirun the real one.

    Returns the results of the ranks that live in this process.
    """
    from hpcml.comm import simulated

    kind = request.param
    if kind == "mpi":
        return lambda program: [_on_the_real_world(program)]
    size, hosts = (kind, None) if isinstance(kind, int) else (len(kind), list(kind))
    return lambda program: simulated.run(size, program, hosts)


def _on_the_real_world(program: Callable[[Any], Any]) -> Any:
    """Run program(comm) on the world's communicator, then give back the windows and communicators that it made."""
    from hpcml.comm import world

    result = program(world())
    world().release()
    return result


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    """The module whose arrays the test uses: numpy, and under `make test-gpu` cupy."""
    return importlib.import_module(request.param)


@pytest.fixture
def mpirun() -> Callable[..., Any]:
    """Run ``hpcml <args>`` on n ranks of a real world: mpirun(n, *args, cwd=, env=, timeout=)."""
    return hpcml


@pytest.fixture
def shared_path(tmp_path: Path) -> Iterator[Path]:
    """A fresh folder that is the same one on every rank of a real world."""
    if not UNDER_MPIRUN:
        yield tmp_path
        return
    from mpi4py import MPI

    yield MPI.COMM_WORLD.bcast(tmp_path)
    MPI.COMM_WORLD.Barrier()  # the folder stays until the last rank has left it


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder that holds pyproject.toml."""
    return Path(__file__).resolve().parent.parent
