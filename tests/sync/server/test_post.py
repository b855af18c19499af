"""Letters wake a rank that sleeps, on its main thread or beside it; a rank that cannot be rung looks. In every kind of world."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hpcml.comm.mail import NET
from hpcml.sync.server.post import Post


def boxes(comm, threaded=True):
    came = []

    def take(source, letter):
        came.append((source, int(letter[0])))
        post.mail.give_back(letter)

    post = Post(comm.mail(), take, threaded and comm.threaded and comm.size > 1)
    return post, came


def send(post, to, size, value):
    letter = post.mail.buffer(size)
    letter[:] = value
    post.send(to, letter)


def close(comm, post):
    comm.barrier()
    post.finish()
    comm.barrier()
    post.mail.close()


@pytest.mark.parametrize("size", [64, 300_000])
def test_a_letter_that_goes_round_wakes_each_rank_by_its_bell(on_every_rank, size):
    rounds = 20

    def program(comm):
        post, came = boxes(comm)
        post.begin()
        for number in range(rounds):
            if comm.rank == 0:
                time.sleep(2e-3)  # the others sleep by now
                send(post, 1 % comm.size, size, number)
            post.wait(lambda number=number: len(came) > number)
            if comm.rank:
                send(post, (comm.rank + 1) % comm.size, size, number)
        close(comm, post)
        return came, post.unrung, comm.size, post.mail.pause

    for came, unrung, ranks, pause in on_every_rank(program):
        assert [value for _, value in came] == list(range(rounds))
        assert ranks == 1 or pause == NET
        # The safety net may find a letter in the moment before its ring.
        assert unrung <= rounds // 5


def test_letters_are_taken_beside_a_long_computation(on_every_rank):
    def program(comm):
        post, came = boxes(comm)
        post.begin()
        comm.barrier()
        send(post, (comm.rank + 1) % comm.size, 64, 5)
        if comm.threaded and comm.size > 1:
            end = time.monotonic() + 30
            while not came and time.monotonic() < end:
                np.ones((50, 50)) @ np.ones((50, 50))
        else:
            post.turn()
        found = [value for _, value in came]
        close(comm, post)
        return found, comm.threaded or comm.size == 1

    for found, able in on_every_rank(program):
        assert found == [5] or not able


def test_a_ring_is_answered_although_the_first_look_finds_nothing(on_every_rank):
    rounds = 10

    def program(comm):
        post, came = boxes(comm)
        hear, take, lagging = post.mail.bell.wait_beside, post.mail.take, []

        def hear_early(seconds):
            heard = hear(seconds)
            lagging.extend([True, True] if heard else [])
            return heard

        post.mail.bell.wait_beside = hear_early
        post.mail.take = lambda: None if lagging and lagging.pop() else take()
        post.begin()
        for number in range(rounds):
            comm.barrier()
            time.sleep(2e-3)  # the thread has rested by now
            send(post, (comm.rank + 1) % comm.size, 64, number)
            end = time.monotonic() + 20
            while comm.threaded and comm.size > 1 and len(came) <= number and time.monotonic() < end:
                time.sleep(1e-4)
        post.turn()
        close(comm, post)
        return len(came), post.unrung

    for came, unrung in on_every_rank(program):
        assert came == rounds
        assert unrung <= rounds // 5


def test_ranks_that_cannot_ring_each_other_look(on_every_rank):
    def program(comm):
        post, came = boxes(comm, threaded=False)
        post.mail._heard, post.mail._bells = False, [b""] * comm.size
        pause = post.mail.pause
        send(post, (comm.rank + 1) % comm.size, 200_000, 9)
        post.wait(lambda: bool(came))
        close(comm, post)
        return pause, came[0][1]

    assert all(found == (0.0, 9) for found in on_every_rank(program))


def test_what_the_other_thread_meets_is_raised_in_the_main_one(on_every_rank):
    def program(comm):
        def take(source, letter):
            raise ValueError("a bad letter")

        post = Post(comm.mail(), take, comm.threaded and comm.size > 1)
        post.begin()
        send(post, (comm.rank + 1) % comm.size, 64, 1)
        try:
            post.wait(lambda: False)
        except ValueError as error:
            return str(error)
        finally:
            post.stop()
            comm.barrier()
            post.mail.close()

    assert all(text == "a bad letter" for text in on_every_rank(program))
