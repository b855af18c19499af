"""Real worlds for tests: mpirun as a child with a time limit, at whose end every rank prints its stacks.

``python -m tests.mpirun 3 600 pytest -m mpi`` runs a module in three ranks for at most 600 seconds; make uses it.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

LAUNCHER_PREFIXES = ("PMI_", "PMIX_", "OMPI_", "PRTE_", "HYDRA_", "HYDI_", "MPI_LOCAL", "MPIR_", "MPIEXEC_", "PMI2_")
RANK_NAMES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
TOKEN = "HPCML_TEST_WORLD"
TIMED_OUT = 124  # as timeout(1) says it
LAST_WORDS = 3.0
"""Seconds that ranks get to print their stacks, and then launchers to pass them on."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a world ended: its exit code (124 at the time limit), all that it printed, its seconds."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def timed_out(self) -> bool:
        """Whether the world was ended by its time limit."""
        return self.returncode == TIMED_OUT

    def check(self) -> Result:
        """Return this result, or fail with all that the world printed if its exit code is not 0."""
        if self.returncode:
            raise AssertionError(f"exit code {self.returncode} after {self.seconds:.1f} s\n{self.stdout}\n{self.stderr}")
        return self


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without the MPI that it may run under, ready for a new world of either MPI."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_PREFIXES)}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["PYTHONFAULTHANDLER"] = "1"  # SIGABRT prints stacks in every Python process
    # Open MPI refuses root and more ranks than cores unless told; MPICH reads none of these.
    env["OMPI_ALLOW_RUN_AS_ROOT"] = env["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    env["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    env.setdefault("HOME", str(Path.home()))  # Open MPI does not start without one
    # Several ranks share the few cores of a test machine; threads that spin cost far more than they give.
    env.setdefault("OMP_NUM_THREADS", "1")
    return env | dict(extra or {})


def launcher() -> str:
    """Return the mpirun that belongs to this Python: the one beside it, else the first on PATH."""
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        raise FileNotFoundError("no mpirun beside this Python or on PATH; install one with `pip install hpcml[mpi]`")
    return found


class Child:
    """A command running in its own session, whose every descendant can be found, made to print its stacks, and ended.

    Args:
        command: the program and its arguments.
        cwd: where it runs; this process's folder if left out.
        env: variables to add to ``clean_environment()``.
        capture: keep what it prints for ``wait``; if False it prints where this process prints.
    """

    def __init__(
        self, command: Sequence[str | Path], *, cwd: str | Path | None = None, env: Mapping[str, str] | None = None, capture: bool = True
    ) -> None:
        self._token = uuid.uuid4().hex
        # Files, not pipes: a rank that outlives its mpirun would hold a pipe open, and the reader would wait for it.
        self._out = tempfile.TemporaryFile() if capture else None  # noqa: SIM115 - closed by wait
        self._err = tempfile.TemporaryFile() if capture else None  # noqa: SIM115 - closed by wait
        self._start = time.monotonic()
        self._process = subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd,
            env=clean_environment({TOKEN: self._token} | dict(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    def _members(self) -> Iterator[tuple[int, dict[str, str]]]:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                raw = (folder / "environ").read_bytes()
            except OSError:  # ended since the listing, or another user's
                continue
            if self._token.encode() in raw:
                pairs = (entry.partition("=") for entry in raw.decode(errors="replace").split("\0"))
                yield int(folder.name), {name: value for name, _, value in pairs}

    def ranks(self) -> dict[int, int]:
        """Return the process id of each rank that is running now."""
        found = {}
        for pid, env in self._members():
            rank = next((env[name] for name in RANK_NAMES if name in env), None)
            if rank is not None:
                found[int(rank)] = pid
        return found

    @property
    def running(self) -> bool:
        """Whether the command has not ended yet."""
        return self._process.poll() is None

    @property
    def seconds(self) -> float:
        """Seconds since the start of the command."""
        return time.monotonic() - self._start

    def wait(self, timeout: float) -> Result:
        """Return how the command ended; at the time limit every rank prints its stacks and everything is killed.

        Args:
            timeout: seconds from the start of the command.
        """
        try:
            code = self._process.wait(max(0.0, timeout - self.seconds))
        except subprocess.TimeoutExpired:
            self._ask_for_stacks()
            code = TIMED_OUT
        self.kill()
        return Result(code, _text(self._out), _text(self._err), self.seconds)

    def kill(self) -> None:
        """End every process of the command at once; does nothing if all have ended."""
        for pid, _ in self._members():
            _signal(pid, signal.SIGKILL)
        self._process.wait()

    def _ask_for_stacks(self) -> None:
        ranks = set(self.ranks().values()) or {self._process.pid}
        others = {pid for pid, _ in self._members()} - ranks
        # A launcher that saw the first rank die would kill the others before they have printed: it sleeps meanwhile.
        for pid in others:
            _signal(pid, signal.SIGSTOP)
        for pid in ranks:
            _no_core_dump(pid)
            _signal(pid, signal.SIGABRT)
        _until(lambda: not ranks & {pid for pid, _ in self._members()})
        for pid in others:
            _signal(pid, signal.SIGCONT)
        _until(lambda: self._process.poll() is not None)


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LAST_WORDS
    while time.monotonic() < deadline and not done():
        time.sleep(0.05)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _no_core_dump(pid: int) -> None:
    try:
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    except (ProcessLookupError, PermissionError):
        return


def _text(file: BinaryIO | None) -> str:
    if file is None:
        return ""
    with file:
        file.seek(0)
        return file.read().decode(errors="replace")


def start(n: int, *args: str | Path, cwd: str | Path | None = None, env: Mapping[str, str] | None = None) -> Child:
    """Start ``mpirun -n n python <args>`` and return it running, for tests that hurt it before they wait for it."""
    return Child([launcher(), "-n", str(n), sys.executable, *args], cwd=cwd, env=env)


def mpirun(n: int, *args: str | Path, cwd: str | Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 50) -> Result:
    """Run ``mpirun -n n python -m hpcml <args>`` and return how it ended.

    The default limit stands below pytest's own 60 seconds, so that the ranks' stacks are printed before pytest's.
    """
    return start(n, "-m", "hpcml", *args, cwd=cwd, env=env).wait(timeout)


def main(words: Sequence[str]) -> int:
    """Run a module in a world that prints where this process prints: N SECONDS MODULE [ARGUMENT]..."""
    n, seconds, *module = words
    child = Child([launcher(), "-n", n, sys.executable, "-m", *module], capture=False)
    try:
        result = child.wait(float(seconds))
    except BaseException:  # Ctrl-C does not reach another session
        child.kill()
        raise
    if result.timed_out:
        sys.stderr.write(f"mpirun -n {n}: ended by its time limit of {seconds} s\n")
    return result.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
