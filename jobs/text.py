"""Bits a byte of gzip, bzip2, xz and a trained model on the same held-out bytes: ``python jobs/text.py runs/text [RESULT.json]``."""

from __future__ import annotations

import argparse
import bz2
import gzip
import json
import lzma
import sys
import tomllib
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def held_out(run: Path) -> bytes:
    """Return the bytes that the run's test rows predict, one after the other.

    Raises:
        SystemExit: unless each row begins with the last byte of the one before, so that each byte is scored exactly once.
    """
    data = tomllib.loads((run / "config.toml").read_text())["data"]
    pattern = Path(data["test"])
    rows = []
    for path in sorted(pattern.parent.glob(pattern.name)) if pattern.name else []:
        with h5py.File(path) as shard:
            rows.append(shard[data["target"]][:].astype(np.uint8))
    if not rows or any(part.ndim != 2 for part in rows):
        sys.exit(f"{run}: data.test = {data['test']!r} holds no rows of tokens in {data['target']!r}; give a run of jobs/text.toml")
    whole = np.concatenate(rows)
    if not np.array_equal(whole[1:, 0], whole[:-1, -1]):
        sys.exit(f"{data['test']}: rows are no consecutive windows of one text; make them with data/text/make.py")
    return whole[:, 1:].tobytes()


def bits(run: Path) -> dict[str, Any]:
    """Return bits a byte of each compressor and of the run, with what the run was."""
    text = held_out(run)
    packed = {"gzip -9": gzip.compress(text, 9), "bzip2 -9": bz2.compress(text, 9), "xz -9": lzma.compress(text, preset=9)}
    summary = json.loads((run / "summary.json").read_text())
    found = {name: 8 * len(bytes_) / len(text) for name, bytes_ in packed.items()}
    found["model"] = summary["metrics"]["test_bits_per_token"]
    kept = ("ranks", "steps", "rows", "seconds", "metrics", "weights_sha256", "parameters", "conditions", "versions")
    return {"bytes": len(text), "bits_a_byte": found, "run": {key: summary[key] for key in kept}}


def main(run: Path, result: Path | None = None) -> None:
    """Print a line for each compressor and one for the run; keep all of it as JSON if a file is named."""
    row = bits(run)
    print(f"{row['bytes']:,} held-out bytes, {row['run']['seconds'] / 60:.1f} minutes of training on {row['run']['ranks']} ranks")
    for name, number in row["bits_a_byte"].items():
        print(f"{number:6.3f} bits a byte  {f'model in {run}' if name == 'model' else name}")
    if result:
        result.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run that has ended")
    parser.add_argument("result", type=Path, nargs="?", help="a JSON file to keep the comparison in")
    asked = parser.parse_args()
    if not (asked.run / "summary.json").is_file():
        parser.error(f"{asked.run} is no folder of a run that has ended: there is no summary.json")
    main(asked.run, asked.result)
