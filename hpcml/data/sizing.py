"""How many rows to read and to hold at a time: arithmetic from the rows' bytes, the same on every rank."""

from __future__ import annotations

import re

import numpy as np

from hpcml.data.index import Index
from hpcml.errors import ConfigError

READ_BYTES = 1 << 20
"""What one read should bring: disks and parallel file systems are at their speed from about a megabyte on."""

LEAST_BLOCK = 32
"""Rows of the smallest block that is chosen."""

LEAST_BLOCKS = 4096
"""Blocks that a data set should at least have before they are made longer: fewer would be mixed badly."""

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


def parse_bytes(text: str, key: str) -> int:
    """Return the bytes that "2GB", "512 MiB" or "1000000" name.

    Raises:
        ConfigError: naming the key, for anything else.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?B?)\s*", text.upper())
    unit = None if found is None else UNITS.get(found[2] if found[2] != "B" else "")
    if found is None or unit is None:
        raise ConfigError(f'{key} is "{text}"; give bytes such as "2GB" or "512MiB"')
    return int(float(found[1]) * unit)


def row_bytes(index: Index, itemsize: int) -> int:
    """Return the bytes of one row in memory: features and real targets in `itemsize`, whole targets in 8, and the row number."""
    target = 0 if index.y is None else int(np.prod(index.y.shape, dtype=np.int64)) * index.y.memory_dtype(f"f{itemsize}").itemsize
    weight = 0 if index.weights is None else itemsize
    return int(np.prod(index.x.shape, dtype=np.int64)) * itemsize + target + weight + 8


def chunk_rows(index: Index) -> int:
    """Return the rows of the features that most shards decode together; 1 where rows can be read one by one."""
    names = {part.name for part in index.x.stored}
    rows = [max((stored.chunk_rows for name, stored in shard.fields if name in names), default=1) for shard in index.shards]
    return max(set(rows), key=rows.count)


def file_row_bytes(index: Index) -> int:
    """Return the bytes that a row of the features takes in the files, 1 or more: of rows of variable length, on average."""
    total = 0.0
    for part in index.x.stored:
        held = [stored for shard in index.shards for name, stored in shard.fields if name == part.name]
        is_variable = bool(held) and held[0].variable is not None
        total += sum(stored.nbytes for stored in held) / index.rows if is_variable else part.nbytes
    return max(1, int(total))


def choose_block(index: Index) -> int:
    """Return the rows of a block: enough for one good read, whole chunks, and not so many that few blocks are left to mix.

    Data of up to 4096 * 64 rows keep blocks of 32 rows, unless their chunks are longer.
    """
    block, row = LEAST_BLOCK, file_row_bytes(index)
    while 2 * block * row <= READ_BYTES and 2 * block * LEAST_BLOCKS <= index.rows:
        block *= 2
    chunk = chunk_rows(index)
    return -(-block // chunk) * chunk


def fit_window(window: int, block: int, batch_rows: int, ahead: int, bytes_a_row: int, memory: int) -> int:
    """Return the most blocks of a window, up to `window`, with which a worker's ring stays within `memory` bytes.

    Args:
        window: blocks wanted.
        block: rows of a block.
        batch_rows: rows of a worker at one step.
        ahead: steps ready beyond two windows.
        bytes_a_row: as `row_bytes` returns it.
        memory: the bound.

    Raises:
        ConfigError: if not even a window of one block fits.
    """
    rows = memory // bytes_a_row - (ahead + 3) * batch_rows  # a ring is rounded up to whole steps
    blocks = rows // (2 * block)
    if blocks < 1:
        need = (2 * block + (ahead + 3) * batch_rows) * bytes_a_row
        raise ConfigError(
            f"data.memory is {memory:,} bytes, but each virtual worker needs {need:,} for blocks of {block} rows of {bytes_a_row:,} bytes;"
            " raise it, or make data.block or train.batch smaller"
        )
    return int(min(window, blocks))


def amplification(index: Index, block: int, shuffle: str, window_rows: int) -> float:
    """Return the expected bytes read for each byte of the features in an epoch: 1.0 where no chunk is decoded twice.

    A chunk is decoded once for every block of it, unless its blocks meet in one window; a "global" shuffle decodes
    a chunk once for each of its rows, but for those that fall into the same window.
    """
    chunk = chunk_rows(index)
    if chunk == 1 or shuffle == "none":
        return 1.0
    unit = 1 if shuffle == "global" else block
    if unit % chunk == 0:
        return 1.0
    visits = -(-chunk // unit) if unit < chunk else 1 + chunk / unit
    share = min(1.0, window_rows / index.rows)
    # Of `visits` visits, each falls into the window of an earlier one with probability `share`.
    return float(visits * (1 - share) + share) if unit < chunk else float(visits)
