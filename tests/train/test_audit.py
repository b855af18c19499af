"""Runs use every row once and prove it; a quarantine gives the same bits on any number of ranks, also after a resume."""

from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pytest

from hpcml import nn
from hpcml.comm import simulated
from hpcml.data import ShardedDataset, open_shards
from hpcml.errors import DataError
from hpcml.optim import SGD
from hpcml.sync import EveryStep, LocalSteps
from hpcml.train import Saving, Trainer

ROWS = 40


@pytest.fixture
def shards(tmp_path):
    for i in range(3):
        rng = np.random.default_rng(i)
        with h5py.File(tmp_path / f"{i}.h5", "w") as file:
            file.create_dataset("x", data=rng.random((ROWS, 6)).astype("f4"), chunks=(8, 6), compression="gzip", fletcher32=True)
            file["y"], file["w"] = rng.integers(0, 3, ROWS), rng.random(ROWS)
    return tmp_path


def corrupt(path):
    with h5py.File(path) as file:
        info = file["x"].id.get_chunk_info(1)
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(info.byte_offset + 20)
        file.write(b"\xa5" * 8)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def trainer(index, comm, sync=None, **options):
    model = nn.mlp([6, 8, 3], seed=1)
    sampling = {"block": 8, "window": 2}
    return Trainer(
        model,
        nn.softmax_cross_entropy,
        SGD(0.1),
        sync or EveryStep(),
        ShardedDataset(index),
        batch=12,
        workers=4,
        seed=3,
        comm=comm,
        device="cpu",
        hooks=[],
        sampling=sampling,
        **options,
    )


def weights(index, ranks, epochs=3, **options):
    def program(comm):
        run = trainer(index, comm, **options)
        run.run(epochs)
        return run.model.arena.data.tobytes(), run.audit.last, run.notes

    return simulated.run(ranks, program)


def test_every_epoch_is_proven_on_any_number_of_ranks(shards):
    index = open_shards(shards / "*.h5").index
    found = [weights(index, ranks) for ranks in (1, 2, 3)]
    assert len({one[0] for ranks in found for one in ranks}) == 1
    assert {one[1]["rows_used"] for ranks in found for one in ranks} == {3 * ROWS}


@pytest.mark.parametrize("fault", ["skip", "double"])
def test_a_loader_that_skips_or_repeats_rows_is_found_at_the_end_of_the_epoch(shards, fault):
    index = open_shards(shards / "*.h5").index

    def program(comm):
        run = trainer(index, comm)
        honest = run.audit.add
        run.audit.add = lambda batch: None if fault == "skip" and comm.rank == 1 else [honest(batch) for _ in range(1 + comm.rank)]
        with pytest.raises(DataError, match="epoch 0: the ledger does not add up"):
            run.run(2)
        return run.epoch

    assert simulated.run(2, program) == [0, 0]


@pytest.mark.parametrize("sync", [EveryStep(), LocalSteps(every=3)], ids=["every-step", "local-steps"])
def test_a_quarantine_gives_the_same_bits_on_any_number_of_ranks(shards, sync):
    index = open_shards(shards / "*.h5").index
    corrupt(shards / "1.h5")
    options = {"loading": {"quarantine": True}, "sync": sync}
    found = [weights(index, ranks, **options) for ranks in (1, 2, 3, 4)]
    assert len({one[0] for ranks in found for one in ranks}) == 1
    assert {(one[1]["rows_used"], one[1]["rows_left_out"]) for ranks in found for one in ranks} == {(2 * ROWS, ROWS)}
    assert len({tuple(one[2]) for ranks in found for one in ranks}) == 1
    assert all(any("8 rows could not be read" in note and "1.h5" in note for note in one[2]) for ranks in found for one in ranks)


def test_a_run_stopped_in_mid_epoch_goes_on_with_its_ledger_and_its_quarantine(shards, tmp_path):
    index = open_shards(shards / "*.h5").index
    corrupt(shards / "1.h5")
    options = {"loading": {"quarantine": True}}
    (whole, *_), *_ = weights(index, 1, **options)

    class Enough(Exception):
        pass

    for stop in (4, 14):
        folder = tmp_path / f"run-{stop}"

        def begin(comm, folder=folder, stop=stop):
            run = trainer(index, comm, saving=Saving(folder, every=stop), **options)
            step = run.step

            def counted(batches):
                if run.count == stop:
                    raise Enough
                step(batches)

            run.step = counted
            with pytest.raises(Enough):
                run.run(3)

        def go_on(comm, folder=folder, stop=stop):
            run = trainer(index, comm, saving=Saving(folder, resume=True), **options)
            assert run.count == stop
            run.run(3)
            return run.model.arena.data.tobytes()

        simulated.run(2, begin)
        manifest = json.loads(next((folder / "checkpoints").glob(f"*{stop:08d}")).joinpath("manifest.json").read_text())
        assert int(manifest["audit"]["ledger"]["used_rows"], 16) > 0
        assert set(simulated.run(3, go_on)) == {whole}


def test_without_a_quarantine_a_corrupt_shard_ends_the_run_on_every_rank(shards):
    index = open_shards(shards / "*.h5").index
    corrupt(shards / "1.h5")

    def program(comm):
        with pytest.raises(DataError, match=r"1\.h5: field 'x', rows"):
            trainer(index, comm).run(1)
        return True

    assert simulated.run(2, program) == [True, True]


def test_a_quarantine_that_leaves_no_shard_ends_the_run_on_every_rank(shards):
    corrupt(shards / "1.h5")
    index = open_shards(shards / "1.h5").index

    def program(comm):
        with pytest.raises(DataError, match=r"epoch 0: no shard is left that can be read \(.*1\.h5"):
            trainer(index, comm, loading={"quarantine": True}).run(2)

    simulated.run(2, program)


def test_weights_of_rows_count_as_copies_of_the_rows(shards):
    """Weights 0, 1 and 2 give the gradient of a set with rows left out, once, and twice."""
    counts = np.random.default_rng(0).integers(0, 3, ROWS)
    with h5py.File(shards / "0.h5", "r+") as file:
        x, y = file["x"][()], file["y"][()]
        file["w"][...] = counts
    with h5py.File(shards / "copies.h5", "w") as file:
        file["x"], file["y"] = np.repeat(x, counts, axis=0), np.repeat(y, counts)

    def program(comm, data):
        model = nn.mlp([6, 8, 3], seed=1)
        run = Trainer(
            model, nn.softmax_cross_entropy, SGD(0.1), EveryStep(), data, batch=data.rows, workers=1, comm=comm, device="cpu", hooks=[]
        )
        return run.run(3)["train_loss"], model.arena.data.copy(), run.evaluate(data)["loss"]

    weighted = simulated.run(1, lambda comm: program(comm, open_shards(shards / "0.h5", weights="w")))[0]
    copies = simulated.run(1, lambda comm: program(comm, open_shards(shards / "copies.h5")))[0]
    np.testing.assert_allclose(weighted[1], copies[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([weighted[0], weighted[2]], [copies[0], copies[2]], rtol=1e-5)


def test_a_target_that_is_no_class_names_its_file_and_row(shards):
    with h5py.File(shards / "2.h5", "r+") as file:
        file["y"][5] = 9
    index = open_shards(shards / "*.h5").index
    with pytest.raises(DataError, match=r"targets \[9\] are outside the classes 0 to 2.*2\.h5 row 5"):
        simulated.run(1, lambda comm: trainer(index, comm).run(1))


@pytest.mark.parametrize("how", ["written", "replaced"])
def test_a_file_that_changes_just_before_the_end_of_an_epoch_is_named_on_every_rank(shards, how):
    index = open_shards(shards / "*.h5").index
    path = shards / "2.h5"

    def program(comm):
        run = trainer(index, comm)
        steps = run.step

        def step(batches):
            steps(batches)
            if comm.rank == 0 and run.count == 8 and how == "written":
                os.utime(path)
            elif comm.rank == 0 and run.count == 8:
                times = path.stat()
                other = path.with_suffix(".new")
                other.write_bytes(path.read_bytes())
                os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
                os.replace(other, path)

        run.step = step
        with pytest.raises(DataError, match=r"2\.h5: (changed since it was indexed|another file took its name)"):
            run.run(1)

    simulated.run(2, program)
