"""The other commands, the helps, the display, and the ten lines of Python."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest

from hpcml.cli.main import COMMANDS, main
from tests.mpirun import Child, clean_environment, launcher, start
from tests.small import explained

NAMES = [command.__name__.rpartition(".")[2] for command in COMMANDS]


def test_evaluate_and_predict_say_the_same_on_any_number_of_ranks(job):
    job.train(2).check()
    said, files = set(), set()
    for ranks in (1, 2, 3):
        said.add(job.hpcml(ranks, "evaluate", "run").check().stdout)
        job.hpcml(ranks, "predict", "run", "--data", "test-*.h5", "--out", f"{ranks}.h5").check()
        files.add((job.folder / f"{ranks}.h5").read_bytes())
    assert len(said) == len(files) == 1
    assert f"accuracy {job.summary()['metrics']['test_accuracy']:.6f}" in said.pop()
    with h5py.File(job.folder / "1.h5") as file, h5py.File(job.folder / "test-0.h5") as truth:
        assert file["prediction"].shape == (21, 3)
        np.testing.assert_allclose(file["prediction"][...].sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_array_equal(file["class"][...], file["prediction"][...].argmax(axis=1))
        accuracy = (file["class"][...] == truth["y"][...]).mean()
    assert accuracy == pytest.approx(job.summary()["metrics"]["test_accuracy"])


@pytest.mark.parametrize(("word", "near"), [("export", "checkpoint export"), ("trian", "train")])
def test_a_word_that_is_no_command_gets_the_near_one(word, near, capsys):
    assert main([word, "run"]) == 2
    assert f"did you mean {near!r}?" in capsys.readouterr().err


def test_commands_on_a_run_that_is_not_there(job):
    explained(job.hpcml(2, "evaluate", "nowhere"), "nowhere: no run here")
    explained(job.hpcml(2, "predict", "nowhere", "--data", "test-*.h5", "--out", "out.h5"), "nowhere: no run here")
    explained(job.hpcml(1, "checkpoint", "list", "nowhere"), "nowhere: no such run folder")


def test_commands_on_data_that_do_not_fit_or_a_file_that_cannot_be_written(job):
    job.train(2, "run", 'data.test=""', "train.epochs=1").check()
    explained(job.hpcml(2, "evaluate", "run"), "names no data.test", "--data")
    with h5py.File(job.folder / "narrow.h5", "w") as file:
        file["x"], file["y"] = np.ones((5, 2), np.float32), np.zeros(5, np.int64)
    explained(job.hpcml(2, "evaluate", "run", "--data", "narrow.h5"), "(2,)", "(4,)")
    explained(job.hpcml(3, "predict", "run", "--data", "test-*.h5", "--out", "no/such/out.h5"), "no/such/out.h5: cannot be written")
    assert not list(job.folder.glob(".partial*"))


def test_predictions_into_a_folder_are_refused_before_the_run_is_looked_at(job):
    (job.folder / "out").mkdir()
    words = ["predict", "nowhere", "--data", "test-*.h5", "--out", "out"]
    explained(job.hpcml(3, *words), "out: is a folder", "--out", "out/predictions.h5")


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_shows_an_example(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"hpcml {name}" in text.partition("example")[2]


def test_the_help_of_all_shows_an_example_and_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "mpirun -n 4 hpcml train" in text
    assert all(name in text for name in NAMES)


def test_help_and_a_wrong_command_line_are_told_once_in_a_world(job):
    result = job.hpcml(3, "train", "--help").check()
    assert result.stdout.count("usage:") == 1
    result = job.hpcml(3, "train", job.config, "--bogus")
    assert result.returncode == 2
    assert result.stderr.count("unrecognized arguments: --bogus") == 1


@pytest.mark.parametrize(("words", "reason"), [("--bogus", "unrecognized arguments: --bogus"), ("--help", "the help was asked for")])
def test_ranks_of_which_one_cannot_start_end_together(job, words, reason):
    hpcml = [sys.executable, "-m", "hpcml", "train", job.config]
    result = Child([launcher(), "-n", "1", *hpcml, "--run", "a", ":", "-n", "1", *hpcml, words], cwd=job.folder).wait(20)
    explained(result, "rank 1: ", reason, "start every rank with the same command line")
    assert not (job.folder / "a").exists()


def on_a_terminal(words, cwd):
    """Run a command on a pseudo-terminal of its own and return (exit code, all that it wrote)."""
    outer, inner = pty.openpty()
    env = clean_environment({"TERM": "xterm", "COLUMNS": "120"})
    child = subprocess.Popen([sys.executable, "-m", "hpcml", *words], cwd=cwd, env=env, stdin=inner, stdout=inner, stderr=inner)
    os.close(inner)
    text = b""
    while True:
        try:
            piece = os.read(outer, 4096)
        except OSError:  # Linux says it like this when the last writer is gone
            break
        if not piece:
            break
        text += piece
    os.close(outer)
    return child.wait(20), text.decode()


def test_a_terminal_gets_a_bar_with_rate_and_time_left(job):
    code, text = on_a_terminal(["train", job.config, "--set", "train.epochs=60", "--run", "run"], job.folder)
    assert code == 0, text
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    bars = re.findall(r"━ +(\d+)/240 steps +([\d,]+) rows/s +(\d:\d\d:\d\d|-:--:--)", plain)
    assert bars, plain
    assert any(left != "-:--:--" for _, _, left in bars)
    assert "epoch 60/60" in plain
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back


def test_a_terminal_gets_its_cursor_back_when_the_run_fails(job):
    with h5py.File(job.shard(1), "r+") as file:
        file["x"][3, 1] = np.nan
    code, text = on_a_terminal(["train", job.config, "--run", "run"], job.folder)
    assert code == 2
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert text.rindex("hpcml: error:") > text.rindex("\x1b[?25h")


def test_a_pipe_gets_plain_lines(job):
    result = job.train(2).check()
    assert "\x1b" not in result.stdout
    assert "\r" not in result.stdout
    assert [line.split()[:2] for line in result.stdout.splitlines() if line.startswith("epoch")] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert result.stderr == ""


@pytest.mark.parametrize("words", [["checkpoint", "list", "run"], ["checkpoint", "--help"]])
def test_a_reader_that_leaves_is_no_error(job, words):
    (job.folder / "run").mkdir()
    reading, writing = os.pipe()
    os.close(reading)  # before the command starts
    command = [sys.executable, "-m", "hpcml", *words]
    done = subprocess.run(command, cwd=job.folder, env=clean_environment(), stdout=writing, stderr=subprocess.PIPE, timeout=20)
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 1


TEN_LINES = """
import hpcml
comm = hpcml.init()
data = hpcml.open_shards("data/digits/train-*.h5", features="x", target="y")
model = hpcml.nn.mlp([64, 128, 10])
trainer = hpcml.Trainer(model, hpcml.nn.softmax_cross_entropy, hpcml.SGD(rate=0.1, momentum=0.9), hpcml.EveryStep(), data, batch=128)
trainer.run(epochs=5)
"""


def test_ten_lines_of_python_train_on_two_ranks(tmp_path, repository):
    (tmp_path / "ten.py").write_text(TEN_LINES)
    result = start(2, tmp_path / "ten.py", cwd=repository).wait(30).check()
    assert result.stdout.count("epoch 5/5") == 1
    assert float(result.stdout.rpartition("train accuracy ")[2].split()[0]) > 0.9
    assert result.stderr == ""


def test_predictions_on_a_full_file_system_are_one_message_and_leave_nothing(job):
    job.train(1, "run", "train.epochs=1").check()
    disk = job.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system takes a right that this user has not")
    try:
        words = ["predict", "run", "--data", "test-*.h5", "--out", "disk/out.h5"]
        explained(job.hpcml(2, *words), "disk/out.h5: cannot be written (No space left on device)")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)
