"""Letters arrive once, whole, and in order from each sender; boxes of one communicator do not mix. In every kind of world."""

from __future__ import annotations

import time

import pytest

from hpcml.comm.communicator import Communicator
from hpcml.comm.mail import FLYING, MpiMail
from hpcml.errors import CommError

SIZES = (1, 70_000, 8, 64)


def collect(mail, count):
    """Take this many letters, with their senders; pytest's own limit ends a wait that never ends."""
    found = []
    while len(found) < count:
        letter = mail.take()
        if letter is None:
            time.sleep(0)
        else:
            found.append((letter[0], letter[1].copy()))
            mail.give_back(letter[1])
    return found


def write(mail, size, value):
    letter = mail.buffer(size)
    letter[:] = value % 251
    return letter


def test_letters_arrive_once_whole_and_in_order_from_each_sender(on_every_rank):
    def program(comm):
        mail = comm.mail()
        for number, size in enumerate(SIZES * 5):
            for to in range(comm.size):
                mail.post(to, write(mail, size, 7 * comm.rank + number))
        came = collect(mail, 20 * comm.size)
        while not mail.is_idle():
            time.sleep(0)
        comm.barrier()
        assert mail.take() is None
        sent = mail.sent_letters, mail.sent_bytes
        mail.close()
        return comm.size, sent, came

    for size, sent, came in on_every_rank(program):
        assert sent == (20 * (size - 1), 5 * sum(SIZES) * (size - 1))
        for source in range(size):
            letters = [letter for sender, letter in came if sender == source]
            assert [letter.size for letter in letters] == list(SIZES) * 5
            for number, letter in enumerate(letters):
                assert (letter == (7 * source + number) % 251).all()


def test_an_urgent_letter_overtakes_those_that_wait_for_the_link(on_every_rank):
    def program(comm):
        mail, many = comm.mail(), 3 * FLYING
        if comm.rank == 0:
            for number in range(many):
                mail.post(comm.size - 1, write(mail, 300_000, number), 5)
            mail.post(comm.size - 1, write(mail, 300_000, 200), 1)
        comm.barrier()  # nobody has taken any yet
        came = [int(letter[0]) for _, letter in collect(mail, many + 1)] if comm.rank == comm.size - 1 else []
        while not mail.is_idle():
            time.sleep(0)
        comm.barrier()
        mail.close()
        return isinstance(mail, MpiMail) and comm.size > 1, came

    for queues, came in on_every_rank(program):
        if came:
            assert sorted(came) == [*range(3 * FLYING), 200]
            assert [number for number in came if number < 200] == list(range(3 * FLYING))
            assert not queues or came.index(200) <= FLYING


def test_two_boxes_do_not_mix(on_every_rank):
    def program(comm):
        first, second = comm.mail(), comm.mail()
        to = (comm.rank + 1) % comm.size
        first.post(to, write(first, 16, 1))
        second.post(to, write(second, 16, 2))
        came = [collect(second, 1)[0][1][0], collect(first, 1)[0][1][0]]
        comm.barrier()
        first.close()
        second.close()
        return came

    for came in on_every_rank(program):
        assert came == [2, 1]


def test_a_buffer_given_back_is_used_again(on_every_rank):
    def program(comm):
        mail = comm.mail()
        letter = mail.buffer(48)
        mail.give_back(letter)
        again, other = mail.buffer(48) is letter, mail.buffer(40) is letter
        comm.barrier()
        mail.close()
        return again, other

    assert all(found == (True, False) for found in on_every_rank(program))


def test_a_communicator_without_letters_says_so():
    class Mute(Communicator):
        def exchange(self, x, to, into, source): ...
        def split(self, color, key=0): ...
        def by_node(self): ...

    with pytest.raises(CommError, match="Mute carries no letters"):
        Mute().mail()
