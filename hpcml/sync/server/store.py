"""Tables by key, spread over the ranks: every rank pushes gradients to them and pulls their numbers, without models and trainers.

Letters: m numbers of a table, k rows, w numbers in a row, P ranks.

References:
    Li et al., Scaling distributed machine learning with the parameter server, OSDI 2014; Chen et al., MXNet, 2015 (KVStore).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from types import TracebackType

import numpy as np

from hpcml.comm.communicator import Communicator, everywhere
from hpcml.errors import CommError, ConfigError, NumericsError, ShapeError
from hpcml.optim import Rule
from hpcml.sync.server.consistency import BSP, Consistency
from hpcml.sync.server.ending import Ending
from hpcml.sync.server.gate import LiveGate
from hpcml.sync.server.letters import HEAD_BYTES, Field, Kind, body, dense, head, note, sparse, write_head
from hpcml.sync.server.post import Post
from hpcml.sync.server.shard import EMPTY, ROWS, WHOLE, Shard
from hpcml.sync.server.tables import RuleUpdater, Table


class Pull:
    """A pull on its way: the array it was given is busy until `wait`."""

    def __init__(self, store: KeyValue, number: int, out: np.ndarray) -> None:
        self._store, self._number, self._out, self._came = store, number, out, False

    def wait(self) -> None:
        """Overwrite the array with what has come; calls after the first leave it as it is."""
        # There is one answer: who waited for a second one would wait without end.
        if not self._came:
            self._store.receive(self._number, self._out)
            self._came = True


class KeyValue:
    """Tables by key on all ranks: `push` gives a gradient to a table's updater, `pull` overwrites an array with the table's numbers.

    A table lives on one rank; the largest are dealt out first, so that the ranks hold about as much. Every rank is a worker. Under BSP the
    updater takes the sum of all ranks' next pushes of a key, over a fixed tree; else it takes each push as it comes, and P pushes are one
    step of its rate. How far ranks may run apart is judged key by key. Pulls see what this rank has pushed before.

    Args:
        comm: all ranks; each makes the store.
        tables: by key, the first numbers, floats: (m,), or (k, w) whose rows can be pushed and pulled alone; equal on all ranks.
        rule: the updater, one that needs no look at whole vectors: SGD, AdaGrad, AdamW.
        consistency: BSP(), SSP(bound), BAP() or TAP(); the last two are one here, since every pull waits for its answer.
        compensation: lambda of DC-ASGD, for pushes that come late; 0 for none.

    Raises:
        ConfigError: on every rank, for a rule or a consistency that does not fit.
        ShapeError: on every rank, for a table that is not of floats with one or two axes.
        DisagreementError: on every rank, if the ranks' tables, rules, consistencies or compensations differ.
    """

    def __init__(
        self,
        comm: Communicator,
        tables: Mapping[str, np.ndarray],
        rule: Rule,
        consistency: Consistency | None = None,
        compensation: float = 0.0,
    ) -> None:
        consistency = consistency or BSP()
        comm.agree_all({key: _describe(x) for key, x in tables.items()}, "the table of")
        # Each table has the rule of the rank where it lives: ranks that differ would train by several.
        comm.agree((rule, consistency, compensation), "the store's rule, consistency and compensation")
        for problem in _misfits(rule, consistency, compensation):
            raise everywhere(ConfigError(problem))
        for key, x in tables.items():
            if x.ndim not in (1, 2) or x.dtype.kind != "f" or not x.size:
                raise everywhere(ShapeError(f"table {key!r} is {x.dtype} of shape {x.shape}; give floats of shape (m,) or (k, w)"))
        self._comm, self._keys = comm, sorted(tables)
        self._numbers = {key: number for number, key in enumerate(self._keys)}
        self._shapes, self._dtypes = [tables[key].shape for key in self._keys], [tables[key].dtype for key in self._keys]
        self._homes = deal_tables([tables[key].nbytes for key in self._keys], comm.size)
        self._clocks, self._open, self._pulled = [0] * len(self._keys), set[int](), set[int]()
        self._answers: dict[int, np.ndarray] = {}
        self._post = Post(comm.mail(), self._take, comm.concurrent and comm.size > 1)
        self._ending, self._shards, self._closed = Ending(self._post), dict[int, Shard](), False
        for number, key in enumerate(self._keys):
            if self._homes[number] == comm.rank:
                x = tables[key]
                updater = RuleUpdater(rule, x.reshape(-1), x.size, comm.size, compensation)
                width = x.shape[1] if x.ndim == 2 else 1
                table = Table(x.reshape(-1), updater, comm.size, consistency.whole, width, summed=True)
                self._shards[number] = Shard(number, table, LiveGate(consistency, comm.size), self._post.mail, self._post.send)
        self._post.begin()

    def push(self, key: str, values: np.ndarray, rows: np.ndarray | None = None, priority: int = 0) -> None:
        """Give a gradient to a table's updater; return when it is on its way, which may take until the last one of this key was taken.

        Args:
            key: of the table.
            values: the table's shape and dtype; with rows (k, w), or (k,) where rows have one number. May be overwritten at once.
            rows: (k,) rows, ascending, each once: no other row is sent, nor moved by the updater. Where a rank has none for
                its part of a clock, give an empty array of integers.
            priority: where several letters wait for the link, lower numbers go first.

        Raises:
            ShapeError: if key, values or rows do not fit a table.
            NumericsError: if a value is not finite: the table would keep it for ever, and hand it to everybody.
            CommError: if the store has been closed.
        """
        number, where = self._find(key, values, rows)
        flat = np.ascontiguousarray(values).reshape(-1)
        self._require_finite(key, flat, values.shape, where)
        self._post.wait(lambda: self._is_free(number))
        letter = dense(self._post.mail, flat.size, flat.dtype) if where is None else sparse(self._post.mail, where, flat)
        count = -1 if where is None else where.size
        write_head(letter, Kind.WRITE, self._comm.rank, number, self._clocks[number], count=count, extra=priority)
        if where is None:
            letter[HEAD_BYTES:].view(flat.dtype)[:] = flat
        self._clocks[number] += 1
        self._send(number, letter, EMPTY, priority)

    def pull(self, key: str, out: np.ndarray, rows: np.ndarray | None = None, priority: int = 0) -> None:
        """Overwrite an array with a table's numbers, or with those of some rows; see `start_pull`."""
        self.start_pull(key, out, rows, priority).wait()

    def start_pull(self, key: str, out: np.ndarray, rows: np.ndarray | None = None, priority: int = 0) -> Pull:
        """Ask for a table's numbers; the array is busy until the pull's `wait`.

        Args:
            key: of the table.
            out: C-contiguous; the table's shape and dtype, or with rows (k, w), or (k,) where rows have one number.
            rows: (k,) rows, ascending, each once: only they travel.
            priority: where several letters wait for the link, lower numbers go first; the answer's, too.

        Raises:
            ShapeError: if key, out or rows do not fit a table.
            CommError: if an earlier pull of the key has not been waited for, or the store has been closed.
        """
        number, where = self._find(key, out, rows)
        if number in self._pulled:
            raise CommError(f"rank {self._comm.rank}: the last pull of {key!r} is still on its way; call its wait() first")
        if not out.flags.c_contiguous:
            raise ShapeError(f"a pull of {key!r} needs a C-contiguous array to overwrite")
        self._post.wait(lambda: self._is_free(number))
        empty = np.empty(0, out.dtype)
        letter = note(self._post.mail, Kind.ASK, 0) if where is None else sparse(self._post.mail, where, empty)
        count = -1 if where is None else where.size
        write_head(letter, Kind.ASK, self._comm.rank, number, count=count, extra=priority)
        self._pulled.add(number)
        self._send(number, letter, WHOLE if where is None else ROWS, priority)
        return Pull(self, number, out)

    def receive(self, number: int, out: np.ndarray) -> None:
        """Overwrite an array with the answer to this rank's last pull of a key; `Pull.wait` calls it."""
        self._post.wait(lambda: number in self._answers)
        letter = self._answers.pop(number)
        self._pulled.discard(number)
        out.reshape(-1)[:] = body(letter, out.dtype)
        self._post.mail.give_back(letter)

    def flush(self) -> None:
        """Return when every push of this rank was taken by its table; after a barrier of all ranks every pull sees all of them."""
        for number in range(len(self._keys)):
            self._post.wait(lambda number=number: self._is_free(number))  # type: ignore[misc]

    def close(self) -> None:
        """End this rank's pushes, and return when all ranks' have been taken; every rank calls it, and a second call does nothing."""
        if self._closed:
            return
        self.flush()
        self._closed = True
        for number, home in enumerate(self._homes):
            self._post.send(home, note(self._post.mail, Kind.LEFT, self._comm.rank, number))
        self._ending.meet()
        self._post.finish()
        self._comm.barrier()
        self._post.mail.close()

    def __enter__(self) -> KeyValue:
        """Return the store."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close it; after an error only this rank's thread ends, since the others may not come to close theirs."""
        if error is None:
            self.close()
        else:
            self._post.stop()

    def _is_free(self, number: int) -> bool:
        return number not in self._open

    def _send(self, number: int, letter: np.ndarray, answer: int, priority: int) -> None:
        head(letter)[Field.ANSWER] = answer
        self._open.add(number)
        self._post.send(self._homes[number], letter, priority)

    def _find(self, key: str, values: np.ndarray, rows: np.ndarray | None) -> tuple[int, np.ndarray | None]:
        """Return the number of a key and the rows (k,) int64, if an array fits and the store is open."""
        if self._closed:
            raise CommError(f"rank {self._comm.rank}, table {key!r}: the store is closed; push and pull before close()")
        number = self._numbers.get(key)
        if number is None:
            raise ShapeError(f"rank {self._comm.rank}: there is no table {key!r}; the store has {', '.join(map(repr, self._keys))}")
        shape, dtype = self._shapes[number], self._dtypes[number]
        where = None if rows is None else np.asarray(rows)
        if where is not None:
            rising = where.ndim == 1 and where.dtype.kind in "iu" and bool((np.diff(where.astype(np.int64)) > 0).all())
            if not rising or (where.size and (where[0] < 0 or where[-1] >= shape[0])):
                text = f"expected integer rows of 0 to {shape[0] - 1}, ascending and each once"
                raise ShapeError(f"rank {self._comm.rank}, table {key!r}: {text}; numpy.unique gives such rows")
            shape, where = (where.size, *shape[1:]), where.astype(np.int64)
        if values.shape != shape or values.dtype != dtype:
            text = f"expected {dtype} of shape {shape}, got {values.dtype} of shape {values.shape}"
            raise ShapeError(f"rank {self._comm.rank}, table {key!r}: {text}")
        return number, where

    def _require_finite(self, key: str, flat: np.ndarray, shape: tuple[int, ...], where: np.ndarray | None) -> None:
        """Raise NumericsError, naming worker, key and place, for a value that is not finite."""
        with np.errstate(all="ignore"):
            # One pass that allocates nothing; a sum may overflow where no value does, so only then each is looked at.
            if np.isfinite(np.add.reduce(flat)) or (finite := np.isfinite(flat)).all():
                return
        place = [int(index) for index in np.unravel_index(int(np.argmin(finite)), shape)]
        if where is not None:
            place[0] = int(where[place[0]])
        text = f"worker {self._comm.rank} (rank {self._comm.rank}) pushed {flat[np.argmin(finite)]} to table {key!r} at {place}"
        raise NumericsError(f"{text}, and {int(finite.size - finite.sum())} of {finite.size} values are not finite; nothing was sent")

    def _take(self, source: int, letter: np.ndarray) -> None:
        """Do what a letter wants; called where the letters are taken."""
        fields = head(letter)
        kind, number = Kind(fields[Field.KIND]), int(fields[Field.SHARD])
        if kind in (Kind.WRITE, Kind.ASK, Kind.LEFT):
            self._shards[number].take(source, letter)
            self._shards[number].log.clear()  # nobody replays a store
        elif kind is Kind.VIEW:
            if fields[Field.ANSWER] == EMPTY:
                self._post.mail.give_back(letter)
            else:
                self._answers[number] = letter
            self._open.discard(number)
        else:
            self._ending.take(kind, source, fields)
            self._post.mail.give_back(letter)


def _describe(x: np.ndarray) -> str:
    return f"{x.dtype} {x.shape} {hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:16]}"


def _misfits(rule: Rule, consistency: Consistency, compensation: float) -> list[str]:
    found = []
    if rule.looks:
        found.append(f"{type(rule).__name__} looks at whole vectors, of which a store sees one table; choose SGD, AdaGrad or AdamW")
    if consistency.threshold or consistency.regions:
        found.append("a store writes what it is given, and has no significance filter and no regions; choose SSP(bound) instead of ASP")
    if not 0 <= compensation < math.inf or (compensation and consistency.whole):
        found.append(f"delay compensation of {compensation} is for late gradients, 0 or more; leave it out, or choose TAP or SSP")
    return found


def deal_tables(nbytes: list[int], ranks: int) -> list[int]:
    """Return the rank of each table: the largest first, each to the rank that holds least so far."""
    held, homes = [0] * ranks, [0] * len(nbytes)
    for number in sorted(range(len(nbytes)), key=lambda number: -nbytes[number]):
        homes[number] = held.index(min(held))
        held[homes[number]] += nbytes[number]
    return homes
