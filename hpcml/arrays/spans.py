"""Cutting a range into consecutive spans: the one rule by which rows, vectors and workers are shared out."""

from __future__ import annotations

from itertools import pairwise


def spans(n: int, parts: int) -> list[slice]:
    """Cut range(n) into `parts` consecutive spans whose lengths differ by at most one."""
    edges = [n * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def span(n: int, parts: int, part: int) -> slice:
    """Return ``spans(n, parts)[part]`` without building the list."""
    return slice(n * part // parts, n * (part + 1) // parts)
