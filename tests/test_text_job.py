"""jobs/text.toml at tiny size: it learns from bytes, the same on 1 and 3 ranks, and is compared on the bytes that it was judged on."""

from __future__ import annotations

import bz2
import json
import re
import runpy
import subprocess
import sys

import h5py
import numpy as np
import pytest

from hpcml.data import RowWriter

TINY = ["model.layers=1", "model.width=16", "model.heads=2", "train.virtual_workers=3", "train.micro_batch=2", "optimizer.rate=0.01"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, repository):
    """Shards of a few files of the library, as data/text/make.py cuts them, shorter."""
    maker = runpy.run_path(str(repository / "data" / "text" / "make.py"))
    maker["windows"].__globals__["CONTEXT"] = 64
    files = [text for path, text in sorted(maker["documents"]().items()) if path.startswith("json/")]
    tokens, _ = maker["windows"](files)
    made = tmp_path_factory.mktemp("text")
    for name, rows in (("train-00", tokens[:96]), ("test-00", tokens[96:136])):
        with RowWriter(made / f"{name}.h5", len(rows), {"tokens": ((65,), np.uint8)}) as file:
            file.write(0, {"tokens": rows})
    return made


def train(ranks, run, folder, mpirun, repository):
    changes = [f"data.train={folder}/train-*.h5", f"data.test={folder}/test-*.h5", "train.epochs=3", *TINY]
    words = [word for change in changes for word in ("--set", change)]
    mpirun(ranks, "train", repository / "jobs" / "text.toml", *words, "--run", run, cwd=repository).check()
    return json.loads((run / "summary.json").read_text())


def test_the_job_learns_the_same_on_any_ranks_and_is_compared_with_compressors(folder, tmp_path, mpirun, repository):
    one, three = (train(ranks, tmp_path / str(ranks), folder, mpirun, repository) for ranks in (1, 3))
    assert one["weights_sha256"] == three["weights_sha256"]
    metrics = three["metrics"]
    assert metrics == one["metrics"]
    assert metrics["test_bits_per_token"] < 6.5 < 8
    assert metrics["test_perplexity"] == pytest.approx(2 ** metrics["test_bits_per_token"])
    assert metrics["test_bits_per_token"] == pytest.approx(metrics["test_loss"] / np.log(2))

    done = subprocess.run(
        [sys.executable, repository / "jobs" / "text.py", tmp_path / "3", tmp_path / "row.json"], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "row.json").read_text())
    assert row["bytes"] == 40 * 64
    assert row["bits_a_byte"]["model"] == metrics["test_bits_per_token"]
    assert row["run"]["ranks"] == 3
    bits = {name: float(number) for number, name in re.findall(r"^ *([\d.]+) bits a byte  (.*)$", done.stdout, re.M)}
    assert f"{40 * 64:,} held-out bytes" in done.stdout
    assert bits[f"model in {tmp_path / '3'}"] == pytest.approx(metrics["test_bits_per_token"], abs=1e-3)
    with h5py.File(folder / "test-00.h5") as file:
        text = file["tokens"][:, 1:].tobytes()
    assert bits["bzip2 -9"] == pytest.approx(8 * len(bz2.compress(text)) / len(text), abs=1e-3)


def test_rows_that_are_no_consecutive_windows_are_not_compared(tmp_path, repository):
    """Bytes that overlap, or that no row predicts, would be no fair match for a compressor."""
    (tmp_path / "config.toml").write_text(f'[data]\ntest = "{tmp_path}/test-*.h5"\ntarget = "tokens"\n')
    with RowWriter(tmp_path / "test-00.h5", 3, {"tokens": ((5,), np.uint8), "class": ((), np.uint8)}) as file:
        file.write(0, {"tokens": np.arange(15, dtype=np.uint8).reshape(3, 5), "class": np.arange(3, dtype=np.uint8)})
    held_out = runpy.run_path(str(repository / "jobs" / "text.py"))["held_out"]
    with pytest.raises(SystemExit, match="no consecutive windows"):
        held_out(tmp_path)
    for test, target in (("", "tokens"), (f"{tmp_path}/none-*.h5", "tokens"), (f"{tmp_path}/test-*.h5", "class")):
        (tmp_path / "config.toml").write_text(f'[data]\ntest = "{test}"\ntarget = "{target}"\n')
        with pytest.raises(SystemExit, match="holds no rows of tokens"):
            held_out(tmp_path)


def test_what_is_no_finished_run_is_said_in_words(tmp_path, repository):
    done = subprocess.run([sys.executable, repository / "jobs" / "text.py", tmp_path], capture_output=True, text=True, timeout=50)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "is no folder of a run that has ended: there is no summary.json" in done.stderr
