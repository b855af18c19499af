"""Worlds that stay up and run one hpcml command after another: Python, numpy and MPI start once a world, not once a command.

A command of a test takes 0.1 s, the start of three ranks on two cores more than a second. What needs a start of its own, a kill or
an environment asks `tests.mpirun` for a fresh world; a command that ends the world, or is ended by its limit, costs the next one a start.
``python -m tests.standing SOCKET`` is a rank.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import shutil
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcml.comm.communicator import Communicator
from tests.mpirun import RANK_NAMES, Result, mpirun
from tests.mpirun import start as start_world

REPOSITORY = Path(__file__).resolve().parent.parent
LEAVING = 20.0
"""Seconds within which a world must be gone once one of its ranks is."""


class Standing:
    """A world of n ranks that wait for commands, asleep.

    Args:
        n: ranks.
    """

    def __init__(self, n: int) -> None:
        self.alive = True
        self._folder = Path(tempfile.mkdtemp(prefix="hpcml-world-"))
        self._commands = 0
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(self._folder / "door"))
            door.listen(n)
            door.settimeout(0.2)
            self._child = start_world(n, "-m", "tests.standing", self._folder / "door", cwd=REPOSITORY)
            self._lines: list[socket.socket] = []
            while len(self._lines) < n and self._child.running and self._child.seconds < LEAVING:
                try:
                    self._lines.append(door.accept()[0])
                except TimeoutError:
                    continue
        if len(self._lines) < n:
            self._end(self._child.wait(0)).check()
            raise AssertionError(f"{n} ranks were started, {len(self._lines)} came")

    def run(self, words: Sequence[str], cwd: Path, timeout: float) -> Result:
        """Run one command on every rank and return how it ended, as a world of its own would have: the ranks' words one after the other."""
        self._commands += 1
        folder = self._folder / str(self._commands)
        folder.mkdir()
        begin = time.monotonic()
        order = json.dumps([str(folder), str(cwd), list(words)]).encode() + b"\n"
        answers, waiting = [], list(self._lines)
        try:
            for line in waiting:
                line.sendall(order)
            while waiting and (left := begin + timeout - time.monotonic()) > 0:
                for line in select.select(waiting, [], [], left)[0]:
                    answers.append([int(word) for word in line.recv(16).split()])
                    if not answers[-1]:
                        raise ConnectionError
                    waiting.remove(line)
        except ConnectionError:  # a rank is gone, and the launcher ends the others
            return self._end(self._child.wait(self._child.seconds + LEAVING), folder, begin)
        if waiting:
            return self._end(self._child.wait(0), folder, begin)
        result = _told(folder, Result(next((code for code, _ in answers if code), 0), "", "", time.monotonic() - begin))
        if any(left for _, left in answers):  # of a command that failed: they would die with its process
            self._child.kill()
            self._end(self._child.wait(0))
        return result

    def _end(self, result: Result, folder: Path | None = None, begin: float = 0) -> Result:
        """Return what the ranks said and how their world ended, and let nobody use it again."""
        self.alive = False
        for line in self._lines:
            line.close()
        if folder is not None:
            result = _told(folder, Result(result.returncode, result.stdout, result.stderr, time.monotonic() - begin))
        shutil.rmtree(self._folder)
        return result

    def close(self) -> None:
        """Send the ranks home."""
        if self.alive:
            for line in self._lines:
                line.shutdown(socket.SHUT_RDWR)
            self._end(self._child.wait(self._child.seconds + LEAVING))


def _told(folder: Path, result: Result) -> Result:
    said = ["".join(path.read_text(errors="replace") for path in sorted(folder.glob(f"*.{name}"))) for name in ("out", "err")]
    shutil.rmtree(folder)
    return Result(result.returncode, said[0] + result.stdout, said[1] + result.stderr, result.seconds)


_worlds: dict[int, Standing] = {}


def hpcml(n: int, *words: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 50) -> Result:
    """Run ``hpcml <words>`` on n ranks of a world that stands, or with an environment in a fresh one; return how it ended."""
    if env is not None:
        return mpirun(n, *words, cwd=cwd, env=env, timeout=timeout)
    if n not in _worlds or not _worlds[n].alive:
        _worlds[n] = Standing(n)
    return _worlds[n].run([str(word) for word in words], cwd or Path.cwd(), timeout)


@atexit.register
def _close_all() -> None:
    for world in _worlds.values():
        world.close()


def trust_the_power() -> None:
    """Let nothing of this process wait for the disk: what tests write is read on the same machine, and each wait takes 10 ms."""
    os.fsync = lambda _: None


def serve(door: str) -> None:
    """Be a rank: run the commands that come in by the door until it is closed."""
    trust_the_power()
    from hpcml.train import start as first_call

    rank = next(os.environ[name] for name in RANK_NAMES if name in os.environ)
    first_call.init()
    first_call.end_world_on_error = lambda comm: None  # once is enough
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(door)
        with line.makefile() as orders:
            for order in orders:
                folder, cwd, words = json.loads(order)
                first_call._started.clear()  # what a command says of an error depends on whether it has started MPI
                os.chdir(cwd)
                code = _run(words, f"{folder}/{rank}")
                threads = _threads_left(first_call.world())
                if not threads:
                    first_call.world().release()
                line.sendall(f"{code} {threads}".encode())
                os.chdir(REPOSITORY)  # the test's folder goes with the test


def _threads_left(comm: Communicator) -> int:
    """Return the most threads that a command has left on any rank, after a second to end: all ranks give back together or none does."""
    end = time.monotonic() + 1
    while threading.active_count() > 1 and time.monotonic() < end:
        time.sleep(0.005)
    return max(int(count) for count in comm.all_gather_bytes(str(threading.active_count() - 1).encode()))


def _run(words: list[str], said: str) -> int:
    """Run a command with its words to files of its own."""
    from hpcml.cli.main import main

    kept = [os.dup(fd) for fd in (1, 2)]
    for fd, name in ((1, "out"), (2, "err")):
        file = os.open(f"{said}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, fd)
        os.close(file)
    with warnings.catch_warnings():  # which forgets what was told: each command warns anew
        code = main(words)
    sys.stdout.flush()
    for fd, old in zip((1, 2), kept, strict=True):
        os.dup2(old, fd)
        os.close(old)
    return code


if __name__ == "__main__":
    serve(sys.argv[1])
