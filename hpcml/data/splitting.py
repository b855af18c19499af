"""Which part each row goes to: arithmetic on integers, by a seed, by class, by group. No files, no ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hpcml.arrays.seeds import stream
from hpcml.errors import ConfigError, DataError

PARTS = ("train", "validation", "test")


def parse_parts(text: str) -> dict[str, float]:
    """Return part -> share of the rows, from "0.8,0.1,0.1" (train, validation, test) or "train=0.9,test=0.1".

    Raises:
        ConfigError: for another form, a name twice, a share that is not above 0, or a sum that is not 1.
    """
    words = [word.strip() for word in text.split(",")]
    named = [word.partition("=") for word in words]
    if not any(equals for _, equals, _ in named):
        names = PARTS if len(words) == 3 else ("train", "test")
        if len(words) != len(names):
            raise ConfigError(f"parts {text!r}: expected 2 or 3 shares, or NAME=SHARE for each part")
        named = [(name, "=", word) for name, word in zip(names, words, strict=True)]
    try:
        shares = {name.strip(): float(share) for name, _, share in named}
    except ValueError:
        raise ConfigError(f"parts {text!r}: expected shares such as 0.8,0.1,0.1 or train=0.9,test=0.1") from None
    if len(shares) < len(named) or not all(name and name.replace("-", "").replace("_", "").isalnum() for name in shares):
        raise ConfigError(f"parts {text!r}: each part needs a name of its own, of letters, digits, - and _")
    if not all(share > 0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise ConfigError(f"parts {text!r}: shares must be above 0 and add up to 1, these add up to {sum(shares.values()):g}")
    return shares


def assign(rows: int, shares: Sequence[float], seed: int, labels: np.ndarray | None = None, groups: np.ndarray | None = None) -> np.ndarray:
    """Return the part of every row, (rows,) uint8: each row in one part, the same for the same seed.

    Args:
        rows: N.
        shares: of each part, adding up to 1.
        seed: 0 or more.
        labels: (N,) whole numbers; every class is then split in these shares, as far as its rows allow.
        groups: (N,) whole numbers; rows of one group then stay in one part, and shares are met as far as groups allow.

    Raises:
        DataError: if a part would be empty.
    """
    if groups is not None:
        parts = _by_group(shares, seed, labels, groups)
    else:
        parts = _by_class(shares, seed, np.zeros(rows, np.int64) if labels is None else labels)
    counts = np.bincount(parts, minlength=len(shares))
    if not counts.all():
        what = "groups" if groups is not None else "rows"
        raise DataError(
            f"part {int(counts.argmin())} of {len(shares)} would have no rows: there are too few {what}; give fewer parts or larger shares"
        )
    return parts


def _by_class(shares: Sequence[float], seed: int, labels: np.ndarray) -> np.ndarray:
    """Split every class in the shares; what rounding leaves over goes where the whole is furthest behind."""
    parts = np.zeros(len(labels), np.uint8)
    classes, codes = np.unique(labels, return_inverse=True)
    by_class = np.argsort(codes, kind="stable")
    edges = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(classes)))])
    behind = np.zeros(len(shares))
    for code in range(len(classes)):
        rows = stream(seed, "split", code).permutation(by_class[edges[code] : edges[code + 1]])
        wanted = np.asarray(shares) * len(rows)
        counts = np.floor(wanted).astype(np.int64)
        for part in np.argsort(-(behind + wanted - counts), kind="stable")[: len(rows) - counts.sum()]:
            counts[part] += 1
        behind += wanted - counts
        parts[rows] = np.repeat(np.arange(len(shares), dtype=np.uint8), counts)
    return parts


def _by_group(shares: Sequence[float], seed: int, labels: np.ndarray | None, groups: np.ndarray) -> np.ndarray:
    """Give whole groups, the large ones first, to the part whose classes lack them most."""
    names, codes = np.unique(groups, return_inverse=True)
    classes = np.zeros(len(groups), np.int64) if labels is None else np.unique(labels, return_inverse=True)[1]
    width = int(classes.max(initial=0)) + 1
    order = stream(seed, "split-groups").permutation(len(names))
    sizes = np.bincount(codes, minlength=len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    by_group = np.argsort(codes, kind="stable")
    edges = np.concatenate([[0], np.cumsum(sizes)])
    wanted = np.outer(shares, np.bincount(classes, minlength=width)).astype(np.float64)
    lacking, goal = wanted.copy(), np.zeros(len(names), np.uint8)
    for group in order:
        counts = np.bincount(classes[by_group[edges[group] : edges[group + 1]]], minlength=width)
        score = (counts * lacking / np.maximum(wanted, 1)).sum(axis=1)
        part = int(score.argmax())
        goal[group], lacking[part] = part, lacking[part] - counts
    return goal[codes]
