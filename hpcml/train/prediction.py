"""What a model says of every row of a data set, as one HDF5 file that rank 0 writes.

Letters: N rows, k outputs, P ranks. Rows go in blocks of a fixed length from row 0, dealt out to the ranks in turn, so the file
has the same bits whatever P is.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from hpcml.arrays import aligned, to_host
from hpcml.comm.communicator import Communicator
from hpcml.data import RowWriter, ShardedDataset
from hpcml.nn import Loss
from hpcml.train.evaluation import Judge, Reader, blocks


def predict_to_file(model: Judge, loss: Loss, data: ShardedDataset, comm: Communicator, path: Path) -> list[str]:
    """Write `prediction` (N, k) and, for classes, `class` (N,) int64, and return the names written.

    Where a row has outputs at each of T positions they are (N, T, k) and (N, T).
    Under a cross-entropy, prediction holds the classes' probabilities; else the model's outputs.

    Args:
        model: equal on all ranks.
        loss: says whether outputs are classes.
        data: the rows.
        comm: all ranks.
        path: of the file, written whole or not at all.

    Raises:
        DataError: on every rank, if a row cannot be read or the file cannot be written.
    """
    reader, kind = Reader(data, model), model.arena.dtype
    model.context.evaluate()
    fields = {"prediction": (model.outputs, kind)} | _class_field(loss, model.outputs)
    mine, came = (aligned((model.rows_at_once, *model.outputs), kind) for _ in range(2))
    with ExitStack() as stack:
        writer: RowWriter | None = None
        with comm.together():
            if comm.rank == 0:
                writer = stack.enter_context(RowWriter(path, data.rows, fields))
        cut = list(blocks(0, data.rows, model.rows_at_once))
        for first in range(0, len(cut), comm.size):
            dealt = cut[first : first + comm.size]
            with comm.together():
                if comm.rank < len(dealt):
                    x, *_ = reader.read(*dealt[comm.rank])
                    mine[: len(x)] = to_host(model.forward(x))
            _collect(comm, dealt, mine, came, writer, loss)
        with comm.together():
            stack.close()  # here the file gets its name
    return list(fields)


def _collect(
    comm: Communicator, dealt: list[tuple[int, int]], mine: np.ndarray, came: np.ndarray, writer: RowWriter | None, loss: Loss
) -> None:
    """Send each rank's block to rank 0, which writes them in order."""
    if 0 < comm.rank < len(dealt):
        comm.exchange(mine, 0, None, None)
    with comm.together():
        for source, (start, stop) in enumerate(dealt if writer is not None else []):
            if source:
                comm.exchange(None, None, came, source)
            rows = (came if source else mine)[: stop - start]
            if writer is not None:
                writer.write(start, {"prediction": loss.link(rows)} | ({"class": loss.decide(rows)} if loss.decide else {}))


def _class_field(loss: Loss, outputs: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], type]]:
    return {"class": (loss.decide(np.empty((0, *outputs))).shape[1:], np.int64)} if loss.decide else {}
