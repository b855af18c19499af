"""Checkpoints: whole or not at all, verified, and readable by any number of ranks. h5py's second door.

    checkpoints/step-00000240/
        shared.h5             weights (n,), and what all ranks hold alike
        workers-0-1.h5        one group a virtual worker, written by the rank that hosted them (only where workers differ)
        manifest.json         the position, the identity of the run, and size and sha256 of each file; written last

A checkpoint is made under a hidden name, synced to the disk, then renamed: a kill at any moment leaves the older ones as they were.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.arrays import to_host
from hpcml.comm.communicator import Communicator
from hpcml.errors import CheckpointError, HpcmlError

FORMAT = 1
Arrays = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint on the disk: its folder and its manifest."""

    path: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        """Return the number of steps done when it was written."""
        return int(self.manifest["step"])

    def shared(self) -> dict[str, np.ndarray]:
        """Return the arrays that all ranks held alike, "weights" among them."""
        return _read(self.path / "shared.h5", "")

    def worker(self, worker: int) -> dict[str, np.ndarray]:
        """Return the arrays of one virtual worker; empty where workers did not differ."""
        for name in self.manifest["files"]:
            if name.startswith("workers-"):
                first, last = (int(part) for part in Path(name).stem.split("-")[1:])
                if first <= worker <= last:
                    return _read(self.path / name, str(worker))
        return {}


def sha256_of_weights(weights: np.ndarray) -> str:
    """Return the sha256 of the weights' bytes, little-endian, in the order of the arena."""
    return hashlib.sha256(np.ascontiguousarray(weights, weights.dtype.newbyteorder("<")).tobytes()).hexdigest()


def find(folder: Path) -> list[Path]:
    """Return the checkpoint folders of a run, oldest first, valid or not."""
    named = [path for path in (folder / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", path.name) and path.is_dir()]
    return sorted(named, key=_step)


def load(path: Path) -> Checkpoint:
    """Return the checkpoint in this folder, after checking size and sha256 of every file.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    manifest_path = path / "manifest.json"
    try:
        text = manifest_path.read_text()
        manifest = json.loads(text)
        seal, files = manifest.pop("seal"), manifest["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{manifest_path}: no readable manifest ({error})") from error
    if seal != _seal(manifest):
        raise CheckpointError(f"{manifest_path}: the manifest does not match its own seal; it was changed or cut")
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"{manifest_path}: format {manifest['format']}, this hpcml reads format {FORMAT}")
    for name, told in files.items():
        _require_file(path / name, told["bytes"], told["sha256"])
    return Checkpoint(path, manifest)


def problem(path: Path) -> str | None:
    """Return what is wrong with the checkpoint in this folder, or None when it is whole."""
    try:
        load(path)
    except CheckpointError as error:
        return str(error)
    return None


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest whole checkpoint of a run, or None, and the problems of the newer ones that were passed over."""
    problems: list[str] = []
    for path in reversed(find(folder)):
        try:
            return load(path), problems
        except CheckpointError as error:
            problems.append(str(error))
    return None, problems


def require_newest(folder: Path) -> tuple[Checkpoint, list[str]]:
    """Return the newest whole checkpoint of a run, and the problems of the newer ones that were passed over.

    Raises:
        CheckpointError: if there is none; the message says what is wrong with those that are there.
    """
    found, problems = newest(folder)
    if found is None:
        raise CheckpointError("\n".join([f"{folder}: no whole checkpoint", *problems]))
    return found, problems


def newest_together(folder: Path, comm: Communicator) -> tuple[Checkpoint | None, list[str]]:
    """Return what `newest` finds on rank 0, on every rank, so that all go on from the same checkpoint."""
    found: tuple[Checkpoint | None, list[str]] = (None, [])
    with comm.together():
        if comm.rank == 0:
            found = newest(folder)
    told = json.dumps([str(found[0].path) if found[0] else None, found[0].manifest if found[0] else None, found[1]])
    path, manifest, problems = json.loads(comm.broadcast_bytes(told.encode()))
    if path is None:
        return None, problems
    with comm.together():
        if not Path(path).is_dir():
            raise CheckpointError(
                f"{path}: rank 0 sees this checkpoint, this rank does not; the run folder must be on a shared file system"
            )
    return Checkpoint(Path(path), manifest), problems


def save(folder: Path, comm: Communicator, manifest: dict[str, Any], shared: Arrays, workers: dict[int, Arrays], keep: int = 3) -> Path:
    """Write a checkpoint from all ranks, whole or not at all, and then drop the oldest beyond `keep`.

    Args:
        folder: the run's folder, on a file system that all ranks share.
        comm: all ranks; each calls this at the same step.
        manifest: plain values: "step", the position, the identity of the run.
        shared: arrays equal on all ranks, "weights" among them; rank 0 writes them.
        workers: arrays of the workers that this rank hosts; empty where workers do not differ.
        keep: how many checkpoints stay, 1 or more.

    Raises:
        CheckpointError: on every rank, if any rank cannot write; older checkpoints stay as they were.
    """
    final = folder / "checkpoints" / f"step-{manifest['step']:08d}"
    partial = final.with_name(f".partial-{final.name}")
    with comm.together():
        if comm.rank == 0:
            _begin(partial)
    try:
        written: dict[str, dict[str, Any]] = {}
        with comm.together():
            written = _write_files(partial, comm, shared, workers)
        entries = [json.loads(text) for text in comm.all_gather_bytes(json.dumps(written).encode())]
        with comm.together():
            if comm.rank == 0:
                files = {name: entry for each in entries for name, entry in each.items()}
                _seal_and_rename(partial, final, {"format": FORMAT, **manifest, "files": files})
                _drop_oldest(folder, final, keep)
    except HpcmlError:
        if comm.rank == 0:  # a full disk needs the room
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def _drop_oldest(folder: Path, written: Path, keep: int) -> None:
    """Remove all but the last `keep` checkpoints up to the one just written; newer ones are corrupt, so they count for nothing."""
    for old in [path for path in find(folder) if _step(path) <= _step(written)][: -max(keep, 1)]:
        shutil.rmtree(old, ignore_errors=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _begin(partial: Path) -> None:
    for left_over in partial.parent.glob(".*-step-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(f"{partial}: cannot be made ({error.strerror}); free space or give another --run") from error


def _write_files(partial: Path, comm: Communicator, shared: Arrays, workers: dict[int, Arrays]) -> dict[str, dict[str, Any]]:
    contents: dict[str, dict[str, Arrays]] = {}
    if comm.rank == 0:
        contents["shared.h5"] = {"": shared}
    if workers and any(workers.values()):
        contents[f"workers-{min(workers)}-{max(workers)}.h5"] = {str(worker): arrays for worker, arrays in workers.items()}
    written: dict[str, dict[str, Any]] = {}
    for name, groups in contents.items():
        try:
            written[name] = _write(partial / name, groups)
        except OSError as error:
            raise CheckpointError(f"{partial / name}: cannot be written ({error.strerror}); older checkpoints are as they were") from error
    return written


def _write(path: Path, groups: dict[str, Arrays]) -> dict[str, Any]:
    """Write one file, and return its size and sha256 as they should be on the disk.

    HDF5 builds it in memory, at the cost of one copy of the arrays: on a full disk its own writing ends the process from inside
    the library, where no message can be given.
    """
    import h5py

    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        for group, arrays in groups.items():
            for name, x in arrays.items():
                file.create_dataset(f"{group}/{name}" if group else name, data=to_host(x))
    content = image.getbuffer()
    path.write_bytes(content)
    _sync(path)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _seal_and_rename(partial: Path, final: Path, manifest: dict[str, Any]) -> None:
    try:
        manifest_path = partial / "manifest.json"
        manifest_path.write_text(json.dumps({**manifest, "seal": _seal(manifest)}, indent=1))
        _sync(manifest_path)
        _sync(partial)
        if final.exists():
            final.rename(final.with_name(f".old-{final.name}"))
        partial.rename(final)
        _sync(final.parent)
        shutil.rmtree(final.with_name(f".old-{final.name}"), ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"{final}: cannot be finished ({error.strerror}); older checkpoints are as they were") from error


def _read(path: Path, group: str) -> dict[str, np.ndarray]:
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            node = file[group] if group else file
            return {name: node[name][...] for name in node}
    except (OSError, KeyError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error


def _require_file(path: Path, size: int, sha256: str) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: missing")
    if path.stat().st_size != size:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes, the manifest says {size}")
    if _sha256_of_file(path) != sha256:
        raise CheckpointError(f"{path}: its sha256 is not the manifest's; the file is corrupt")


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
