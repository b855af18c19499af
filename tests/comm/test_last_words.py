"""A pipe is waited for until its reader has taken everything, and no longer than a limit."""

from __future__ import annotations

import os
import threading
import time

import pytest

from hpcml.comm import last_words


@pytest.fixture
def pipe(monkeypatch):
    """Return a pipe's (reading end, writing end); the writing end stands for standard error."""
    reads, writes = os.pipe()
    monkeypatch.setattr(last_words, "_is_pipe", lambda descriptor: descriptor == 2)
    unread = last_words.unread
    monkeypatch.setattr(last_words, "unread", lambda _: unread(writes))
    yield reads, writes
    os.close(reads)
    os.close(writes)


def test_it_returns_only_after_the_reader_has_taken_all(pipe):
    reads, writes = pipe
    os.write(writes, b"the disk is gone")
    taken = threading.Timer(0.2, os.read, (reads, 100))
    taken.start()
    last_words.wait_until_read()
    assert taken.finished.is_set()
    taken.join()


def test_a_reader_that_never_reads_is_not_waited_for_beyond_the_limit(pipe, monkeypatch):
    monkeypatch.setattr(last_words, "LIMIT", 0.05)
    monkeypatch.setattr(last_words, "PASSING_ON", 0.0)
    os.write(pipe[1], b"nobody hears")
    start = time.monotonic()
    last_words.wait_until_read()
    assert time.monotonic() - start >= 0.05
    assert last_words.unread(pipe[1]) == len(b"nobody hears")


def test_a_file_or_a_closed_descriptor_is_not_waited_for(tmp_path):
    with (tmp_path / "a").open("w") as file:
        assert not last_words._is_pipe(file.fileno())
        number = file.fileno()
    assert not last_words._is_pipe(number)
