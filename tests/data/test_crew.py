"""A crew does every item once, fails with the first error, and leaves no thread behind."""

from __future__ import annotations

import threading

import pytest

from hpcml.data.crew import Crew


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("items", [0, 1, 3, 100])
def test_every_item_is_done_once(threads, items):
    crew, done = Crew(threads), []
    for _ in range(3):
        crew.each(done.append, range(items))
    assert sorted(done) == sorted(list(range(items)) * 3)
    crew.dismiss()


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_reaches_the_caller_and_the_crew_goes_on(threads):
    def fail(item):
        if item == 5:
            raise KeyError(item)

    crew = Crew(threads)
    with pytest.raises(KeyError):
        crew.each(fail, range(20))
    crew.each(fail, range(5))
    crew.dismiss()


def test_helpers_end_when_dismissed():
    crew = Crew(3)
    crew.each(lambda _: None, range(50))
    helpers = [thread for thread in threading.enumerate() if thread.name == "hpcml-reader"]
    crew.dismiss()
    for helper in helpers:
        helper.join(5)
        assert not helper.is_alive()


def test_helpers_come_only_once_there_is_hurry():
    crew, by = Crew(3), []
    items = [(10, lambda: False), (10, lambda: len(by) >= 4)]
    for count, hurry in items:
        by.clear()
        crew.each(lambda _: by.append(threading.current_thread()) or threading.Event().wait(0.01), range(count), hurry)
        assert len(by) == count
        assert set(by[:4]) == {threading.current_thread()}
        assert (len(set(by)) > 1) == (hurry is items[1][1])
    crew.dismiss()


def test_whoever_waits_may_call_the_helpers_to_the_work_of_a_thread_alone():
    crew, both, begun = Crew(2), threading.Barrier(2), threading.Event()

    def meet(_):
        begun.set()
        both.wait(5)  # alone, the calling thread would never come through

    def call():
        begun.wait(5)
        crew.hasten()

    waiting = threading.Thread(target=call)
    waiting.start()
    crew.each(meet, range(2), lambda: False)
    waiting.join()
    crew.hasten()  # nobody works: nothing happens
    crew.dismiss()
