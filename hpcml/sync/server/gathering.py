"""What all ranks tell each other at an epoch's end: records, measures, sums. Every rank calls each of these."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hpcml.comm.communicator import Communicator
from hpcml.nn.arena import Tail
from hpcml.sync.server.letters import HEAD_BYTES
from hpcml.sync.server.measures import Measures
from hpcml.sync.server.post import Post
from hpcml.sync.server.record import Record


def gather_record(comm: Communicator, mine: Record) -> Record:
    """Return what all ranks recorded of an epoch."""
    whole = Record()
    for data in comm.all_gather_bytes(mine.to_bytes()):
        whole.merge(Record.from_bytes(data, "a rank's arrival order"))
    return whole


def gather_measures(comm: Communicator, post: Post, mine: Iterable[Measures], formula: float = 0.0) -> tuple[Measures, dict[str, Any]]:
    """Return the measures of all ranks added up, and the same as plain numbers with bytes, letters and seconds waited.

    Args:
        comm: all ranks.
        post: this rank's letters.
        mine: the measures of this rank.
        formula: bytes that this rank's workers should cost; 0 where there is no formula.
    """
    mail = post.mail
    own = {
        "parts": [measures.plain() for measures in mine],
        "bytes": mail.sent_bytes,
        "letters": mail.sent_letters,
        "waited": post.waited,
        "unrung": post.unrung,
        "formula": formula,
    }
    whole, found = Measures(), [json.loads(data) for data in comm.all_gather_bytes(json.dumps(own).encode())]
    for rank in found:
        for plain in rank["parts"]:
            whole.add(plain)
    return whole, whole.plain() | {
        "bytes_sent": sum(rank["bytes"] - HEAD_BYTES * rank["letters"] for rank in found),
        "bytes_by_formula": round(sum(rank["formula"] for rank in found)),
        "letters_sent": sum(rank["letters"] for rank in found),
        "seconds_waited": sum(rank["waited"] for rank in found),
        "letters_unrung": sum(rank["unrung"] for rank in found),
    }


def gather_sums(comm: Communicator, workers: int, mine: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return the sums of all workers' tails, added in the workers' order, from those of the hosted ones."""
    sums = np.zeros((workers, len(Tail)))
    for worker, tail in mine.items():
        sums[worker] = tail
    comm.all_reduce(sums)
    total: np.ndarray = np.add.reduce(sums, axis=0)
    return total
