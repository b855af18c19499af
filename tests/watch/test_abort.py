"""What an error does to a world of real ranks, each in a child with a limit."""

from __future__ import annotations

import re
import signal
import sys
import textwrap

import numpy as np
import pytest

from hpcml.comm.alone import Alone
from hpcml.watch.abort import report
from tests.mpirun import Child, start

SOON = 20
"""Seconds within which a world must have ended: most of them go into starting Python."""


@pytest.fixture
def run(tmp_path):
    """Run a script in a world of n ranks, after it has started hpcml, and demand that it ends in time."""

    def in_world(n, body, before="import hpcml\ncomm = hpcml.init()\n"):
        script = tmp_path / "script.py"
        script.write_text(before + textwrap.dedent(body))
        result = (start(n, script) if n else Child([sys.executable, script])).wait(SOON)
        assert not result.timed_out, result.stderr
        return result

    return in_world


def test_an_uncaught_error_on_one_rank_ends_all_and_is_named_by_rank(run):
    result = run(
        3,
        """
        def the_odd_one():
            if comm.rank == 1:
                raise KeyError("a bad key")
        the_odd_one()
        comm.barrier()
        print("nobody gets here")
        """,
    )
    assert result.returncode != 0
    assert "nobody gets here" not in result.stdout
    named = [line for line in result.stderr.splitlines() if line.startswith("[rank 1 of 3 on ")]
    assert any("the_odd_one" in line for line in named)
    assert any("KeyError: 'a bad key'" in line for line in named)
    assert not re.search(r"\[rank [02] of 3", result.stderr)


def test_an_uncaught_error_in_a_thread_ends_all_ranks_too(run):
    result = run(
        2,
        """
        import threading, time
        def reads_ahead():
            raise OSError("the disk is gone")
        if comm.rank == 0:
            threading.Thread(target=reads_ahead).start()
            time.sleep(1000)
        comm.barrier()
        """,
    )
    assert result.returncode != 0
    assert re.search(r"\[rank 0 of 2 on .*\] OSError: the disk is gone", result.stderr)
    assert "reads_ahead" in result.stderr


def test_an_error_that_all_ranks_raise_is_printed_once_and_ends_each_in_order(run):
    result = run(
        3,
        """
        import atexit
        atexit.register(lambda: print("in order", flush=True))
        comm.agree(comm.rank > 0, "the weather")
        """,
    )
    assert result.returncode != 0
    assert result.stderr.count("DisagreementError: ranks disagree on the weather") == 1
    assert result.stdout.count("in order") == 3


def test_an_error_of_one_rank_alone_within_together_is_printed_once(run):
    result = run(
        2,
        """
        from hpcml.errors import DataError
        with comm.together():
            if comm.rank == 1:
                raise DataError("bad rows")
        """,
    )
    assert result.returncode != 0
    assert result.stderr.count("DataError: rank 1: bad rows") == 1


def test_a_crash_in_c_code_prints_the_python_stack(run):
    result = run(
        2,
        """
        import ctypes, resource
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        def reads_nowhere():
            ctypes.string_at(0)
        if comm.rank == 1:
            reads_nowhere()
        comm.barrier()
        """,
    )
    assert result.returncode != 0
    assert "Segmentation fault" in result.stderr
    assert "reads_nowhere" in result.stderr


def test_a_rank_that_is_killed_ends_the_others(run):
    result = run(
        2,
        f"""
        import os
        if comm.rank == 1:
            os.kill(os.getpid(), {int(signal.SIGKILL)})
        comm.barrier()
        """,
    )
    assert result.returncode != 0


def test_a_program_without_mpirun_fails_as_any_python_program(run):
    result = run(0, "raise KeyError('a bad key')")
    assert result.returncode == 1
    assert "KeyError: 'a bad key'" in result.stderr


def test_a_world_without_errors_ends_with_zero(run):
    result = run(2, "comm.barrier()\nprint('done', flush=True)")
    assert result.returncode == 0
    assert result.stdout.count("done") == 2
    assert result.stderr == ""


def test_a_report_names_the_rank_on_every_line(capsys):
    try:
        np.zeros(2)[5]
    except IndexError as error:
        report(Alone(), error)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3
    assert all(line.startswith("[rank 0 of 1 on ") for line in lines)
    assert "IndexError" in lines[-1]


def test_leaving_with_an_error_on_one_rank_alone_ends_all(run):
    result = run(
        2,
        """
        import sys
        if comm.rank == 1:
            sys.exit(3)
        comm.barrier()
        print("nobody gets here")
        """,
    )
    assert result.returncode != 0
    assert "nobody gets here" not in result.stdout
    assert re.search(r"\[rank 1 of 2 on .*\] left by sys.exit\(3\) alone", result.stderr)


def test_leaving_with_an_error_on_all_ranks_is_in_order(run):
    result = run(3, "import sys\nsys.exit(4)\n")
    assert result.returncode == 4
    assert "alone" not in result.stderr


def test_an_interrupt_is_named_by_rank(run):
    result = run(
        2,
        """
        import os, signal
        if comm.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)
        comm.barrier()
        """,
    )
    assert result.returncode != 0
    assert re.search(r"^\[rank 1 of 2 on .*\] KeyboardInterrupt", result.stderr, re.MULTILINE)
