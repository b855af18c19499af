"""Shards that cannot be used: one clear message, at once, on every rank, and what a run had stays."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

from tests.small import explained, rows, write_shard


def rewrite(path, name, change):
    with h5py.File(path, "r+") as file:
        data = change(file[name][...])
        del file[name]
        if data is not None:
            file[name] = data


def nan_in_row_3(x):
    x[3, 1] = np.nan
    return x


def missing(job):
    for path in job.folder.glob("train-*.h5"):
        path.unlink()


BROKEN = {
    "missing": (missing, ["no shard matches 'train-*.h5'"]),
    "empty": (lambda job: job.shard(1).write_bytes(b""), ["train-1.h5", "is empty"]),
    "truncated": (lambda job: job.shard(1).write_bytes(job.shard(1).read_bytes()[:900]), ["train-1.h5", "truncated"]),
    "not HDF5": (lambda job: job.shard(1).write_bytes(b"x,y\n1,2\n" * 99), ["train-1.h5", "not an HDF5 file"]),
    "field absent": (lambda job: rewrite(job.shard(1), "y", lambda y: None), ["train-1.h5", "'y' is absent"]),
    "field shape": (lambda job: rewrite(job.shard(1), "x", lambda x: x[:, :3]), ["train-1.h5", "(3,)", "(4,)"]),
    "field dtype": (lambda job: rewrite(job.shard(1), "x", lambda x: x.astype("f8")), ["train-1.h5", "float64", "float32"]),
    "rows differ": (lambda job: rewrite(job.shard(1), "y", lambda y: y[:-2]), ["train-1.h5", "23", "25"]),
    "no rows": (lambda job: write_shard(job.shard(1), *(a[:0] for a in rows(3))), ["train-1.h5", "empty"]),
    "float classes": (lambda job: [rewrite(job.shard(i), "y", lambda y: y + 0.5) for i in range(3)], ["float64"]),
    "negative class": (lambda job: rewrite(job.shard(2), "y", lambda y: y - 1), ["train-2.h5", "row 0", "class -1"]),
    "test of another width": (lambda job: write_shard(job.folder / "test-0.h5", np.ones((5, 3), "f4"), np.arange(5) % 3), ["(3,)", "(4,)"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_shard_is_named_at_once(job, name):
    break_it, parts = BROKEN[name]
    break_it(job)
    changes = ["train.loss=softmax-cross-entropy"] if name == "float classes" else []
    explained(job.train(2, "run", *changes), *parts)


def test_a_feature_that_is_not_finite_names_step_worker_and_row_and_the_run_keeps_its_checkpoints(job):
    job.train(2, "run", "train.epochs=1").check()
    before = job.checkpoints()
    rewrite(job.shard(1), "x", nan_in_row_3)
    message = explained(job.train(3, "other", "train.epochs=1"), "step", "worker", "train-1.h5", "row 3")
    assert "rank" not in message.split("hpcml: error:")[0]
    assert job.checkpoints() == before


@pytest.mark.parametrize("sync", ["every-step", "local-steps"])
def test_a_loss_that_is_not_finite_names_step_worker_and_rows(job, sync):
    job.config.write_text(job.config.read_text().replace("rate = 0.1", "rate = 1e30"))
    message = explained(job.train(2, "run", f"sync.name={sync}"), "epoch 0, step", "worker", "the loss is", "row", "optimizer.rate")
    assert "train-" in message


def test_targets_outside_the_classes_are_named(job):
    explained(job.train(2, "run", "model.outputs=2"), "outside the classes 0 to 1", "worker", "step")


def test_a_target_of_other_columns_than_the_model_has_outputs_is_one_message(job):
    explained(
        job.train(2, "run", "model.name=linear", "model.hidden=[]", "model.outputs=2"),
        "the model gives 2 numbers a row",
        "'y' has rows of shape ()",
    )


def test_test_data_that_are_not_finite_are_named(job):
    rewrite(job.folder / "test-0.h5", "x", nan_in_row_3)
    explained(job.train(2), "test-0.h5", "row 3")


def test_a_shard_that_breaks_while_the_run_goes_on_is_named(job):
    """Data that cannot be decoded behind good metadata: found by the reading thread of one rank, raised on all."""
    x, y = rows(25)
    with h5py.File(job.shard(1), "w") as file:
        file.create_dataset("x", data=x, chunks=(25, 4), compression="gzip")
        file["y"] = y
        offset, size = file["x"].id.get_chunk_info(0).byte_offset, file["x"].id.get_chunk_info(0).size
    raw = bytearray(job.shard(1).read_bytes())
    raw[offset : offset + size] = b"\xff" * size
    job.shard(1).write_bytes(raw)
    explained(job.train(3), "train-1.h5")


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_flipped_bit_in_plain_data_is_found_where_a_manifest_knows_the_rows(job, ranks):
    """The number stays finite, so that nothing but a checksum can tell."""
    job.hpcml(2, "data", "verify", "train-*.h5", "--write").check()
    with h5py.File(job.shard(1)) as file:
        address = file["x"].id.get_offset()
    times, raw = job.shard(1).stat(), bytearray(job.shard(1).read_bytes())
    raw[address + 5 * 16] ^= 1
    job.shard(1).write_bytes(raw)
    os.utime(job.shard(1), ns=(times.st_atime_ns, times.st_mtime_ns))
    explained(
        job.train(ranks), "epoch 0, step", "train-1.h5: field 'x', rows", f"at address {address + 5 * 16} are not those of manifest.json"
    )
    job.train(ranks, "off", "data.checksums=off").check()
    result = job.train(ranks, "rest", "data.on_corrupt=quarantine").check()
    assert "from now on without" in result.stdout
    assert "not those of manifest.json" in result.stdout


def test_checksums_that_must_be_there_and_are_not_end_the_start(job):
    explained(job.train(2, "run", "data.checksums=require"), "train-0.h5: has no checksums", "hpcml data verify --write")
