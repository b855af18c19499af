"""Folders of images, a folder a class, through Pillow: x is (rows, height, width) for grey images, (rows, channels, height, width) else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.data.importers.options import Options
from hpcml.errors import ConfigError, DataError

BLOCK = 512
"""Images of one part: enough to keep a rank busy, few enough to share out."""

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm", ".pbm"))
MODES = {
    "1": "L",
    "L": "L",
    "P": "RGB",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "LA": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
    "LAB": "RGB",
}
"""What an image becomes when the user does not say: 8-bit grey, colour, or colour with transparency."""


def require_pillow() -> Any:
    """Return Pillow's Image module.

    Raises:
        ConfigError: if Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError("images need the package Pillow (pip install pillow)") from error
    return Image


def find_images(folder: Path) -> tuple[list[str], list[tuple[str, int]], int]:
    """Return the classes, the images as (path, class), and how many other files were left out.

    Classes are the folders inside `folder` in the order of their names, images in the order of their paths inside each.
    Without folders inside, there are no classes and every image has class -1.

    Raises:
        DataError: if there are no images, or some beside the folders of classes.
    """
    found: list[tuple[str, int]] = []
    other = 0
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    for number, part in enumerate(inside or [folder]):
        for root, folders, names in os.walk(part):
            folders.sort()
            for name in sorted(names):
                if Path(name).suffix.lower() in SUFFIXES:
                    found.append((str(Path(root, name)), number if inside else -1))
                elif not name.startswith("."):
                    other += 1
    loose = next((path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES), None)
    if inside and loose is not None:
        raise DataError(f"{loose}: stands beside folders, which are the classes; move it into one")
    empty = next((path for i, path in enumerate(inside) if all(number != i for _, number in found)), None)
    if not found or empty is not None:
        raise DataError(f"{empty or folder}: has no images; known names end in {', '.join(sorted(SUFFIXES))}")
    return [path.name for path in inside], found, other


class ImagePart:
    """Some images of a folder, with their classes."""

    def __init__(self, images: Sequence[tuple[str, int]], options: Options) -> None:
        self._images, self._options = list(images), options
        self.path = Path(images[0][0])

    def scan(self) -> dict[str, Any]:
        """Return rows and fields; only the heads of the files are read, the rest when rows are.

        Raises:
            DataError: for a file that is no image, or another size or kind than the first, naming both.
        """
        first: tuple[list[int], str] | None = None
        for path, _ in self._images:
            with self._open(path) as image:
                size = list(self._options.size or (image.height, image.width))
                kind = self._mode(path, image.mode)
            first = first or (size, kind)
            if (size, kind) != first:
                refuse_mixture(path, size, kind, self._images[0][0], *first)
        size, kind = first or ([0, 0], "L")
        shape = size if kind == "L" else [len(kind), *size]
        fields: dict[str, Any] = {"x": [shape, "|u1"]}
        if self._images[0][1] >= 0:
            fields["y"] = [[], "<i8"]
        return {"rows": len(self._images), "fields": fields, "size": size, "mode": kind}

    def read(self, scan: dict[str, Any], settled: Any, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return images start to stop-1.

        Raises:
            DataError: for an image that cannot be decoded.
        """
        height, width = scan["size"]
        out = np.empty((stop - start, *scan["fields"]["x"][0]), np.uint8)
        for row, (path, _) in enumerate(self._images[start:stop]):
            with self._open(path) as image:
                try:
                    pixels = image.convert(scan["mode"])
                    if (pixels.height, pixels.width) != (height, width):
                        pixels = pixels.resize((width, height), resample=2)  # bilinear
                    values = np.asarray(pixels)
                except (OSError, SyntaxError, ValueError) as error:
                    raise DataError(f"{path}: cannot be decoded ({error}); replace it, or leave it out") from error
            out[row] = values if values.ndim == 2 else values.transpose(2, 0, 1)
        found = {"x": out}
        if "y" in scan["fields"]:
            found["y"] = np.array([number for _, number in self._images[start:stop]], np.int64)
        return found

    def close(self) -> None:
        """Do nothing: each image is closed when it is read."""

    def _open(self, path: str) -> Any:
        pillow = require_pillow()
        try:
            return pillow.open(path)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path}: is not an image that Pillow can read ({error}); replace it, or leave it out") from error

    def _mode(self, path: str, mode: str) -> str:
        if self._options.mode:
            return self._options.mode
        if mode not in MODES:
            raise DataError(f"{path}: is of Pillow's mode {mode!r}, which 8 bits a channel do not hold; give --mode L or RGB to convert it")
        return MODES[mode]


def refuse_mixture(path: str, size: Sequence[int], mode: str, first_path: str, first_size: Sequence[int], first_mode: str) -> None:
    """Raise DataError for two images that cannot be rows of one field."""
    if list(size) != list(first_size):
        new, old = "x".join(map(str, size)), "x".join(map(str, first_size))
        raise DataError(f"{path}: is {new} pixels, {first_path} is {old}; give --size {old} to bring all to one size")
    raise DataError(f"{path}: is {mode}, {first_path} is {first_mode}; give --mode {mode} or --mode {first_mode} to convert all")
