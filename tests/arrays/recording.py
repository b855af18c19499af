"""A numpy-backed stand-in for a device whose work can be captured: while a tape runs, arrays note what is done to them.

A recording is what was done, again, on the same memory. What a capture runs is undone as far as a device would not have done it: all that
was written is garbage afterwards. Reading a number on the host breaks the capture, as on a device.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

GARBAGE = 0xA5


class Recorded(np.ndarray):
    """An array that notes on the running tape what is computed from it and into it."""

    tape: ClassVar[list | None] = None
    launches: ClassVar[int] = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **how):
        if ufunc is np.matmul and Recorded.tape is not None:
            raise NotImplementedError("calling cuBLAS as CuPy does is refused while a stream is captured")
        inputs, run = [plain(x) for x in inputs], getattr(ufunc, method)
        how = {name: plain(value) for name, value in how.items()}
        if out is None:
            return note(lambda: run(*inputs, **how))
        target = tuple(plain(x) for x in out)
        note(lambda: run(*inputs, out=target, **how), target[0])
        return out[0]

    def __array_function__(self, function, types, arguments, how):
        arguments, given = plain(arguments), {name: plain(value) for name, value in how.items()}
        out = how.get("out")
        written = arguments[0] if function is np.copyto else plain(out)
        made = note(lambda: function(*arguments, **given), written)
        return made if out is None else out

    def __setitem__(self, key, value):
        target, key, value = plain(self), plain(key), plain(value)
        note(lambda: target.__setitem__(key, value), target)

    def __getitem__(self, key):
        target, key = plain(self), plain(key)
        return note(lambda: target[key])

    def fill(self, value):
        target = plain(self)
        note(lambda: target.fill(value), target)

    def reshape(self, *shape):
        target = plain(self)
        return note(lambda: target.reshape(*shape))

    def __float__(self):
        return float(self._read())

    def __int__(self):
        return int(self._read())

    def __bool__(self):
        return bool(self._read())

    def __index__(self):
        return self._read().__index__()

    def tolist(self):
        return self._read().tolist()

    def _read(self):
        if Recorded.tape is not None:
            raise RuntimeError("the host reads a number of a stream that is captured")
        return plain(self)


def _method(name):
    def run(self, *arguments, out=None, **how):
        target, given, place = plain(self), plain(arguments), plain(out)
        more = how if out is None else {**how, "out": place}
        made = note(lambda: getattr(target, name)(*given, **more), place)
        return made if out is None else out

    return run


for _name in ("argmax", "argsort", "astype", "clip", "copy", "cumsum", "max", "mean", "min", "sum", "take"):
    setattr(Recorded, _name, _method(_name))


def plain(x):
    """Return the same memory as a plain array; tuples and lists are gone into."""
    if isinstance(x, tuple | list):
        return type(x)(map(plain, x)) if type(x) in (tuple, list) else x
    return x.view(np.ndarray) if isinstance(x, Recorded) else x


def recorded(x):
    """Return the same memory as an array that notes what is done."""
    return np.asarray(x).view(Recorded)


def note(work, written=None):
    """Do some work now and, from the running tape, again; return what it made, in memory that stays."""
    made = work()
    if written is not None or made is None:
        if Recorded.tape is not None:
            Recorded.tape.append((work, written))
        return None
    if not isinstance(made, np.ndarray | np.generic):
        return made
    kept = np.asarray(made)
    if Recorded.tape is not None:  # of a view this is a copy onto itself, and its memory may be the parameters'
        Recorded.tape.append((lambda: np.copyto(kept, work()), None if isinstance(made, np.ndarray) and made.base is not None else kept))
    return recorded(kept)


class HostRecorder:
    """Records what is done to arrays of this kind."""

    def __init__(self):
        self.recordings = 0

    def record(self, work):
        assert Recorded.tape is None
        Recorded.tape = tape = []
        try:
            work()
        finally:
            Recorded.tape = None
            for _, written in tape:
                ruin(written)
        self.recordings += 1

        def launch():
            Recorded.launches += 1
            for again, _ in tape:
                again()

        return launch


def ruin(x):
    """Overwrite an array with what nobody could take for its numbers."""
    if x is not None and x.flags.writeable:
        x[...] = np.full(x.itemsize, GARBAGE, np.uint8).view(x.dtype)[0] if x.dtype != bool else True
