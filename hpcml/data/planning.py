"""What each shuffle costs and how well it mixes, measured on the order that the sampler really gives. No files, no ranks.

Letters: N rows, B rows of a batch, V workers. A perfect shuffle is one permutation of all rows: "global".

- Read amplification: bytes that must be read and decoded for each byte used, when every chunk is decoded once a window.
- Displacement: the mean distance of a row from its place in file order, over N / 3, which a perfect shuffle has.
- Mixing: the mean total-variation distance between the classes of a batch and those of all rows, over that of a perfect
  shuffle; 1 is perfect, larger is worse. Of labels, and of 32 equal stretches of the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hpcml.arrays.seeds import stream
from hpcml.data.sampler import Sampler

STEPS = 64
"""Steps and windows looked at, spread over the first epoch: enough for two digits."""

PERFECT = 4
STRETCHES = 32
MOST_CLASSES = 1000
GOOD_LABELS = 1.2
"""Label mixing up to this is as good as perfect: it is within the noise of a small set's few batches."""

GOOD_STRETCHES = 1.6
COSTLY = 1.5
"""Read amplification from here on is worth another block or another layout."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """One shuffle in numbers: amplification, reads an epoch, bytes of memory a worker, displacement, mixing of labels and stretches."""

    shuffle: str
    amplification: float
    reads: int
    memory: int
    displacement: float
    labels: float
    stretches: float


def assess(
    sampler: Sampler, shard_rows: Sequence[int], chunks: Sequence[int], codes: np.ndarray, row_bytes: int, ahead: int = 2
) -> Assessment:
    """Return the numbers of one sampler.

    Args:
        sampler: with its shuffle, block and window.
        shard_rows: rows of each shard.
        chunks: rows of a chunk of each shard, 0 where its rows lie in one piece.
        codes: (N,) int64 classes of the rows, 0 and more.
        row_bytes: of one row in memory.
        ahead: steps read ahead.
    """
    amplification, reads = amplify(sampler, shard_rows, chunks)
    steps = spread(sampler.steps, STEPS)
    batches = [np.concatenate([sampler.rows_of(0, worker, step) for worker in range(sampler.workers)]) for step in steps]
    places = [np.arange(step * sampler.batch, step * sampler.batch + len(rows)) for step, rows in zip(steps, batches, strict=True)]
    distance = np.concatenate([abs(rows - place) for rows, place in zip(batches, places, strict=True)]).mean()
    chance = [order[place] for order in _permutations(sampler) for place in places]
    stretch = np.arange(sampler.rows) * STRETCHES // sampler.rows
    window = min(sampler.window_rows, sampler.total(0)) if sampler.shuffle != "global" else sampler.window_rows
    held = 2 * window + (ahead + 1) * max(sampler.count(0, worker) for worker in range(sampler.workers))
    order = 8 * sampler.rows if sampler.shuffle == "global" else 16 * -(-sampler.rows // sampler.block)
    return Assessment(
        sampler.shuffle,
        amplification,
        reads,
        held * row_bytes + order,
        float(distance * 3 / sampler.rows) if sampler.rows > 1 else 1.0,
        relative_mixing(codes, batches, chance),
        relative_mixing(stretch, batches, chance),
    )


def _permutations(sampler: Sampler) -> Iterator[np.ndarray]:
    """Yield a few perfect shuffles: one alone would be a noisy measure."""
    for i in range(PERFECT):
        yield stream(sampler.seed, "perfect", i).permutation(sampler.rows)


def spread(total: int, most: int) -> list[int]:
    """Return up to `most` whole numbers of range(total), evenly spread."""
    count = min(total, most)
    return [total * i // count for i in range(count)]


def amplify(sampler: Sampler, shard_rows: Sequence[int], chunks: Sequence[int]) -> tuple[float, int]:
    """Return (bytes read over bytes used, reads an epoch), from windows spread over the epoch."""
    edges = np.concatenate([[0], np.cumsum(np.asarray(shard_rows, np.int64))])
    size = np.maximum(np.asarray(chunks, np.int64), 1)
    used = read = reads = 0
    for rows in _read_together(sampler):
        shard = np.searchsorted(edges, rows, side="right") - 1
        band = (rows - edges[shard]) // size[shard]
        first = np.concatenate([[True], (np.diff(shard) != 0) | (np.diff(band) != 0)])
        shard, band = shard[first], band[first]
        last = np.minimum((band + 1) * size[shard], np.asarray(shard_rows)[shard])
        read += int((last - band * size[shard]).sum())
        used += len(rows)
        reads += len(band) if any(chunks) else 1 + int((np.diff(rows) != 1).sum())
    return read / used, round(reads * sampler.rows / used)


def _read_together(sampler: Sampler) -> Iterator[np.ndarray]:
    """Yield the rows, ascending, of some windows; in file order all rows are read as one, whatever the windows are."""
    if sampler.shuffle == "none":
        yield np.arange(sampler.rows)
        return
    windows = [(worker, k) for worker in range(sampler.workers) for k in range(sampler.windows(worker))]
    for i in spread(len(windows), STEPS):
        yield np.sort(sampler.window(0, *windows[i]).rows)


def relative_mixing(codes: np.ndarray, batches: Sequence[np.ndarray], chance: Sequence[np.ndarray]) -> float:
    """Return the mean distance of batches from the whole, over that of batches drawn by a perfect shuffle; 1 where both are 0."""
    found, perfect = (float(np.mean([_distance(codes, rows) for rows in some])) for some in (batches, chance))
    if perfect < 1e-12:
        return 1.0 if found < 1e-12 else float("inf")
    return found / perfect


def _distance(codes: np.ndarray, rows: np.ndarray) -> float:
    """Return the total-variation distance between the classes of some rows and those of all."""
    whole = np.bincount(codes)
    part = np.bincount(codes[rows], minlength=len(whole))
    return float(abs(part / len(rows) - whole / len(codes)).sum() / 2)


def classes_of(values: np.ndarray | None, rows: int) -> tuple[np.ndarray, str]:
    """Return ((N,) int64 classes of a target, what they are): labels, tenths of real numbers, or else stretches of the files."""
    if values is None or values.ndim != 1:
        return np.arange(rows) * STRETCHES // rows, "stretches of the files"
    if values.dtype.kind in "iub":
        found, codes = np.unique(values, return_inverse=True)
        if len(found) <= MOST_CLASSES:
            return codes.astype(np.int64), f"{len(found)} classes"
    edges = np.quantile(values.astype(np.float64), np.linspace(0, 1, 11)[1:-1])
    return np.searchsorted(edges, values, side="right").astype(np.int64), "tenths of the target's values"


def recommend(found: Sequence[Assessment], chunk: int, block: int) -> tuple[str, list[str]]:
    """Return the shuffle to take, and the reasons and remedies in plain words.

    Args:
        found: assessments, the cheap ones first.
        chunk: rows of the largest chunk, 0 where there are none.
        block: rows of a block.
    """
    candidates = [one for one in found if one.shuffle != "none"]
    good = [one for one in candidates if one.labels <= GOOD_LABELS and one.stretches <= GOOD_STRETCHES]
    best = min(
        good or candidates, key=lambda one: (round(one.amplification, 1), candidates.index(one)) if good else (one.labels, one.stretches)
    )
    texts = [
        f'data.shuffle = "{best.shuffle}": batches are mixed {_words(best)}, at {best.amplification:.2f} bytes read for each byte used'
    ]
    window = next((one for one in found if one.shuffle == "window"), None)
    if window is not None and best.shuffle == "global" and window not in good:
        text = "a window mixes worse because the files are sorted: make data.window larger"
        texts.append(f"{text}, or put the rows in a random order once with `hpcml data reshard --shuffle SEED`")
    if chunk and block % chunk and best.amplification >= COSTLY:
        near = -(-block // chunk) * chunk
        texts.append(f"blocks of {block} rows cut the chunks of {chunk}: set data.block = {near}, or reshard with --chunk {block}")
    elif best.amplification >= COSTLY:
        texts.append("rows are decoded more often than used: reshard the files with smaller chunks")
    return best.shuffle, texts


def _words(one: Assessment) -> str:
    return "as by a perfect shuffle" if one.labels <= GOOD_LABELS else f"{one.labels:.1f} times worse than by a perfect shuffle"
