"""A picture of what an autoencoder makes of images: in each pair of lines the originals above, what came out below.

    python jobs/digits-autoencoder.py PREDICTIONS SHARDS OUT [--shape 8,8] [--columns 12] [--lines 3]

PREDICTIONS is what `hpcml predict` wrote for SHARDS. OUT is a PNG where matplotlib is installed, else a PGM beside it, which needs nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np

import hpcml

SCALE = 8
"""Points of the picture for each pixel."""


def mosaic(originals: np.ndarray, results: np.ndarray, columns: int) -> np.ndarray:
    """Return (height, width) uint8: lines of `columns` images (n, h, w), each line twice, originals and results."""
    low, high = float(originals.min()), float(originals.max())
    lines = []
    for first in range(0, len(originals), columns):
        for images in (originals[first : first + columns], results[first : first + columns]):
            framed = np.pad(images, ((0, columns - len(images)), (1, 0), (1, 0)), constant_values=low)
            lines.append(np.concatenate(list(framed), axis=1))
    grey = np.concatenate(lines, axis=0)
    grey = np.clip((grey - low) / (high - low or 1) * 255, 0, 255).astype(np.uint8)
    return grey.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def write(picture: np.ndarray, path: Path) -> Path:
    """Write the picture as its name says, or as PGM where PNG cannot be had; return the path written."""
    if path.suffix.lower() == ".png":
        try:
            import matplotlib.image
        except ImportError:
            path = path.with_suffix(".pgm")
        else:
            matplotlib.image.imsave(path, picture, cmap="gray", vmin=0, vmax=255)
            return path
    path.write_bytes(b"P5\n%d %d\n255\n" % picture.shape[::-1] + picture.tobytes())
    return path


def main() -> None:
    """Read originals and predictions in the same order and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("shards")
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", default="8,8", help="height,width of an image")
    parser.add_argument("--columns", type=int, default=12)
    parser.add_argument("--lines", type=int, default=3)
    args = parser.parse_args()
    try:
        shape = tuple(int(length) for length in args.shape.split(","))
    except ValueError:
        parser.error(f"--shape is {args.shape!r}; give height,width, such as 8,8")
    if not args.predictions.is_file():
        parser.error(f"{args.predictions}: no such file; write it by hpcml predict RUN --data SHARDS --out {args.predictions}")
    with hpcml.open_shards(args.shards, target=None) as data, h5py.File(args.predictions) as file:
        if file["prediction"].shape != (data.rows, *data.x.shape):
            parser.error(f"{args.predictions} holds {file['prediction'].shape}, the shards {(data.rows, *data.x.shape)}: not theirs")
        if len(shape) != 2 or np.prod(shape) != np.prod(data.x.shape):
            parser.error(f"--shape is {args.shape}; give height,width of images of {np.prod(data.x.shape)} numbers")
        count = min(data.rows, args.columns * args.lines)
        originals = np.empty((count, *data.x.shape), np.float32)
        data.read(0, count, originals)
        results = file["prediction"][:count]
    path = write(mosaic(originals.reshape(count, *shape), results.reshape(count, *shape), args.columns), args.out)
    print(f"{count} images above what came out of them: {path}")


if __name__ == "__main__":
    main()
