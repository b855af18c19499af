"""Sizes and counts as people write and read them."""

from __future__ import annotations

import re

from hpcml.errors import ConfigError

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_sizes(text: str) -> list[int]:
    """Return the bytes of a list such as "4K,1M,64M", in rising order.

    Raises:
        ConfigError: if a size cannot be read or is not positive.

    >>> parse_sizes("64K,4K")
    [4096, 65536]
    """
    found = set()
    for word in text.split(","):
        match = re.fullmatch(r"(\d+)([KMG]?)B?", word.strip().upper())
        if match is None or int(match[1]) == 0:
            raise ConfigError(f"size {word.strip()!r} cannot be read; give bytes such as 4096, 64K, 1M or 2G")
        found.add(int(match[1]) * UNITS[match[2]])
    return sorted(found)


def shown_bytes(nbytes: float) -> str:
    """Return a number of bytes for reading.

    >>> shown_bytes(65536)
    '64 KB'
    """
    for unit in ("B", "KB", "MB"):
        if nbytes < 1024:
            return f"{nbytes:.4g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.4g} GB"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "node"), counted(2, "node")
    ('1 node', '2 nodes')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
