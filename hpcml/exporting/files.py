"""Files of tensors: safetensors read and written, NumPy's and PyTorch's own read; the libraries are imported when first used.

Nothing in a file is ever run: arrays of objects, and pickles of anything but tensors, are refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np

from hpcml.errors import ConfigError, ExportError

TORCH_FILES = (".pt", ".pth", ".bin")
READ = (".safetensors", ".npz", *TORCH_FILES)
"""Endings of the files that weights are read from."""


OWN = "hpcml"
"""The format that the header of an exported file names."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """Named arrays from outside, and what is known of them."""

    told: str
    """Where they come from, for messages."""
    arrays: dict[str, np.ndarray]
    ordered: bool
    """Whether they stand in the order in which PyTorch's modules were registered; a safetensors file does not keep it."""
    own: bool = False
    """Whether they were exported from here, so that their names are those of an arena."""


def read_tensors(source: Path | Mapping[str, Any]) -> Tensors:
    """Return the tensors of a file, or of a state dict whose values are arrays or PyTorch's tensors.

    Raises:
        ConfigError: if the library that reads such a file is not installed.
        ExportError: if the file cannot be read, or holds something else.
    """
    if isinstance(source, Mapping):
        return Tensors("the state dict", _numbers(source, "the state dict"), True)
    if source.suffix == ".safetensors":
        return _read_safetensors(source)
    if source.suffix == ".npz":
        return Tensors(str(source), _numbers(_read_npz(source), str(source)), True)
    if source.suffix in TORCH_FILES:
        return Tensors(str(source), _numbers(_load_torch(source), str(source)), True)
    if source.is_dir():
        raise ExportError(f"{source}: is a folder; of a run, write the model by `hpcml checkpoint export {source} --out FILE.safetensors`")
    raise ExportError(f"{source}: weights are read from {', '.join(READ)} files; save it as one of them")


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], told: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all; `told` are texts for its header.

    Raises:
        ConfigError: if safetensors is not installed.
        ExportError: if the file cannot be written.
    """
    library = package("safetensors.numpy")
    write_whole(path, lambda partial: library.save_file(dict(tensors), partial, dict(told)))


def package(name: str) -> Any:
    """Return a package, or a module of one, that writes or reads files of that name.

    Raises:
        ConfigError: if it is not installed.
    """
    top = name.partition(".")[0]
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"{top} files need the package {top} ({error}): pip install 'hpcml[export]'") from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a file beside `path`, then give it that name, so that a kill leaves the old file or the new one.

    Raises:
        ExportError: if the file cannot be written.
    """
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {str(path.parent)!r}; make it first")
        partial.touch()
        mode = partial.stat().st_mode
        write(partial)
        partial.chmod(mode)  # safetensors writes for the owner alone, whatever the umask says
        os.replace(partial, path)
    except Exception as error:  # libraries written in Rust and C raise errors of their own where a disk is full
        raise ExportError(f"{path}: cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _read_safetensors(path: Path) -> Tensors:
    library = package("safetensors")
    with contextlib.suppress(ImportError):
        import_module("ml_dtypes")  # gives numpy bfloat16
    try:
        with library.safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in list(file.keys())}
            told: dict[str, str] = file.metadata() or {}
    except (OSError, library.SafetensorError, TypeError, AttributeError) as error:  # the last two: a dtype that numpy has not
        hint = "; install ml_dtypes" if "float" in str(error) else ""
        raise ExportError(f"{path}: no readable safetensors file: {error}{hint}") from error
    own = told.get("format") == OWN
    return Tensors(f"{path} (of the model {told['model']!r})" if own and "model" in told else str(path), arrays, False, own)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, TypeError, AttributeError, BadZipFile) as error:  # AttributeError: one array alone
        text = f"{path}: no readable .npz file: {error}; expected np.savez(file, **arrays) of numbers"
        raise ExportError(text) from error


def _load_torch(path: Path) -> Mapping[str, Any]:
    try:
        import torch
    except ImportError as error:
        where = "where it is, save the state dict by safetensors.torch.save_file(state, 'weights.safetensors')"
        raise ConfigError(f"{path}: PyTorch's own files need PyTorch; install it, or {where}") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file fails in many ways
        if not (isinstance(error, UnpicklingError) and is_zipfile(path)):
            raise ExportError(f"{path}: no readable state dict: {type(error).__name__}: {error}") from error
        text = f"{path}: holds more than tensors, and reading that could run code; if you trust it, save what is needed of it:"
        raise ExportError(f"{text} torch.save(torch.load(path, weights_only=False).state_dict(), 'weights.pt')") from error
    if not isinstance(loaded, Mapping):
        raise ExportError(
            f"{path}: holds a {type(loaded).__name__}; expected a state dict, as torch.save(model.state_dict(), ...) writes it"
        )
    return loaded


def _numbers(values: Mapping[str, Any], told: str) -> dict[str, np.ndarray]:
    """Return host arrays; a tensor is asked by its own methods, so that nothing imports PyTorch."""
    found: dict[str, np.ndarray] = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise ExportError(f"{told}: the name {name!r} is a {type(name).__name__}, expected text")
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = value.double().numpy() if value.is_floating_point() else value.numpy()  # numpy has no bfloat16
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            keys = ", ".join(repr(key) for key, inner in values.items() if isinstance(inner, Mapping))
            hint = f"; save the state dict that is inside it alone, one of {keys}" if keys else ""
            raise ExportError(f"{told}: {name!r} is a {type(value).__name__}, expected an array{hint}")
        found[name] = array
    return found
