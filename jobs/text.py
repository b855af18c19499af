"""Bits a byte of gzip, bzip2 and xz, and of a trained model, on the same held-out bytes: ``python jobs/text.py runs/text``."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import sys
import tomllib
from pathlib import Path

import h5py
import numpy as np


def held_out(run: Path) -> bytes:
    """Return the bytes that the run's test rows predict, one after the other."""
    data = tomllib.loads((run / "config.toml").read_text())["data"]
    pattern = Path(data["test"])
    parts = []
    for path in sorted(pattern.parent.glob(pattern.name)):
        with h5py.File(path) as shard:
            parts.append(shard[data["target"]][:, 1:].astype(np.uint8).tobytes())
    return b"".join(parts)


def main(run: Path) -> None:
    """Print a line for each compressor and one for the run."""
    text = held_out(run)
    packed = {"gzip -9": gzip.compress(text, 9), "bzip2 -9": bz2.compress(text, 9), "xz -9": lzma.compress(text, preset=9)}
    found = {name: 8 * len(bytes_) / len(text) for name, bytes_ in packed.items()}
    found[f"model in {run}"] = json.loads((run / "summary.json").read_text())["metrics"]["test_bits_per_token"]
    print(f"{len(text):,} held-out bytes")
    for name, bits in found.items():
        print(f"{bits:6.3f} bits a byte  {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
