"""The end of asynchronous work is found when it is there, and never before: random reactive letters."""

from __future__ import annotations

import random

from hpcml.sync.server.termination import Termination, Verdict


class Ranks:
    """Ranks that send some letters of their own; a letter may make its receiver send another, for a while."""

    def __init__(self, ranks, seed):
        self.random, self.size = random.Random(seed), ranks
        self.own = [self.random.randrange(4) for _ in range(ranks)]
        self.answers = self.random.randrange(6)
        self.sent, self.taken = [0] * ranks, [0] * ranks
        self.flying, self.reports = [], []
        self.idle = [False] * ranks

    def send(self, rank):
        self.sent[rank] += 1
        self.flying.append(self.random.randrange(self.size))

    def step(self):
        """Let one random thing happen."""
        busy = [rank for rank in range(self.size) if not self.idle[rank]]
        choices = ["deliver"] * bool(self.flying) + ["work"] * bool(busy) + ["report"] * bool(self.reports)
        choice = self.random.choice(choices)
        if choice == "deliver":
            rank = self.flying.pop(self.random.randrange(len(self.flying)))
            self.taken[rank] += 1
            if self.answers:
                self.answers -= 1
                self.send(rank)
        elif choice == "work":
            rank = self.random.choice(busy)
            if self.own[rank]:
                self.own[rank] -= 1
                self.send(rank)
            else:
                self.idle[rank] = True
                self.reports.append((rank, self.sent[rank], self.taken[rank]))
        else:
            return self.reports.pop(self.random.randrange(len(self.reports)))
        return None


def test_3000_runs_end_exactly_when_no_letter_is_on_its_way():
    for seed in range(3000):
        ranks = Ranks(1 + seed % 4, seed)
        termination = Termination(ranks.size)
        for _ in range(5000):
            report = ranks.step()
            if report is None:
                continue
            verdict = termination.report(*report)
            if verdict is Verdict.END:
                assert not ranks.flying, seed
                assert all(ranks.idle), seed
                assert sum(ranks.sent) == sum(ranks.taken), seed
                break
            if verdict is Verdict.ASK:
                ranks.reports += [(rank, ranks.sent[rank], ranks.taken[rank]) for rank in range(ranks.size)]
        else:
            raise AssertionError(f"run {seed} never ended")


def test_sums_that_are_equal_by_chance_do_not_end_it():
    termination = Termination(2)
    assert termination.report(0, 1, 0) is Verdict.WAIT
    # Rank 1 has taken a letter from rank 0, and sent one since rank 0 spoke: the sums agree, a letter is on its way.
    assert termination.report(1, 0, 1) is Verdict.ASK
    assert termination.report(0, 1, 0) is Verdict.WAIT
    assert termination.report(1, 1, 1) is Verdict.ASK
    assert termination.report(0, 1, 1) is Verdict.WAIT
    assert termination.report(1, 1, 1) is Verdict.ASK
    assert termination.report(0, 1, 1) is Verdict.WAIT
    assert termination.report(1, 1, 1) is Verdict.END
