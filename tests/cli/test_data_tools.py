"""``hpcml data`` as users run it: under mpirun, killed and started again, on a full disk; messages once, exit codes as promised."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.mpirun import Child, launcher, start

DIGITS = Path(__file__).resolve().parents[2] / "data" / "digits"
DYING = Path(__file__).resolve().parents[1] / "train" / "dying.py"
TOOLS = ("import", "inspect", "plan", "reshard", "verify", "stats", "split")


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def table(path, rows, columns=8):
    values = np.random.default_rng(0).normal(size=(rows, columns))
    lines = [",".join(f"{value:.6g}" for value in row) for row in values]
    path.write_text("\n".join([",".join(f"c{i}" for i in range(columns)), *lines, ""]))
    return path


def test_every_tool_has_help_with_an_example(capsys):
    from hpcml.cli.main import main

    for tool in TOOLS:
        assert main(["data", tool, "--help"]) == 0
        assert f"hpcml data {tool} " in capsys.readouterr().out.partition("example")[2]


def test_the_names_of_ragged_rows_are_told_as_a_job_tells_them(capsys, mpirun, tmp_path):
    from hpcml.cli.main import main

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["hits/v"], file["hits/s"], file["y"] = np.arange(6.0), np.array([0, 2, 2, 6]), np.arange(3)
    assert main(["data", "inspect", str(tmp_path / "a.h5"), "--ragged", "v,s"]) == 0
    assert "hits: 3 ragged rows of up to 4 entries" in capsys.readouterr().out
    said = mpirun(2, "data", "reshard", "a.h5", "--ragged", "v, s", "--shuffle", "1", "--out", "out", cwd=tmp_path).check().stdout
    assert said.startswith("wrote 3 rows in 1 shards")
    with h5py.File(tmp_path / "out" / "part-00000.h5") as file:
        assert sorted(np.diff(file["hits/s"][:])) == [0, 2, 4]
    assert main(["data", "inspect", str(tmp_path / "a.h5"), "--ragged", "v"]) == 2
    assert "--ragged 'v' has 1 names, expected 2, such as values,offsets" in capsys.readouterr().err


def test_the_tools_in_a_row_give_the_same_files_on_one_and_three_ranks(mpirun, tmp_path):
    table(tmp_path / "t.csv", 300)
    for ranks in (1, 3):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        mpirun(ranks, "data", "import", "../t.csv", "--label", "c7", "--out", "a", "--rows-per-shard", "70", cwd=folder).check()
        mpirun(ranks, "data", "reshard", "a/*.h5", "--out", "b", "--files", "3", "--shuffle", "1", "--codec", "gzip", cwd=folder).check()
        mpirun(ranks, "data", "split", "b/*.h5", "--out", "c", "--seed", "2", cwd=folder).check()
        said = mpirun(ranks, "data", "stats", "c/*.h5", "--out", "stats.json", cwd=folder).check().stdout
        assert said.startswith("300 rows\n")
        said = mpirun(ranks, "data", "verify", "c/*.h5", cwd=folder).check().stdout
        assert "3 files" in said
        assert "no problems" in said
    one, three = files(tmp_path / "1"), files(tmp_path / "3")
    # The manifests' key of the order holds the folders of the inputs, which differ here.
    same = [name for name in one if not name.endswith("manifest.json")]
    assert sorted(one) == sorted(three)
    assert len(same) == 5 + 3 + 3 + 1
    assert all(one[name] == three[name] for name in same)


def test_a_wrong_file_is_told_once_and_ends_with_2(mpirun, tmp_path):
    (tmp_path / "t.csv").write_text("a,species\n1,x\n2\n")
    done = mpirun(2, "data", "import", "t.csv", "--label", "species", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("t.csv: line 3 has 1 cells, expected 2") == 1
    assert "Traceback" not in done.stderr
    done = mpirun(2, "data", "import", "t.csv", "--label", "specis", "--out", "out", cwd=tmp_path)
    assert "did you mean 'species'?" in done.stderr


def test_a_problem_ends_verify_with_1_on_every_rank_count(mpirun, tmp_path):
    for path in DIGITS.glob("test-*.h5"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    mpirun(1, "data", "verify", "*.h5", "--write", cwd=tmp_path).check()
    raw = bytearray((tmp_path / "test-01.h5").read_bytes())
    raw[-1000] ^= 1
    (tmp_path / "test-01.h5").write_bytes(raw)
    for ranks in (1, 2):
        done = mpirun(ranks, "data", "verify", "*.h5", "--range", "y=0:9", cwd=tmp_path)
        assert done.returncode == 1
        assert f"{tmp_path}/test-01.h5: field 'x', rows" in done.stdout
        assert done.stdout.endswith("2 problems\n")


@pytest.mark.parametrize("tool", ["import", "reshard"])
def test_a_killed_tool_goes_on_and_ends_with_the_same_files(mpirun, tmp_path, tool):
    table(tmp_path / "t.csv", 1000)
    words = ["data", "import", "t.csv", "--rows-per-shard", "25", "--codec", "gzip:9"]
    if tool == "reshard":
        mpirun(1, *words[:3], "--out", "source", cwd=tmp_path).check()
        words = ["data", "reshard", "source/*.h5", "--rows-per-shard", "25", "--shuffle", "3"]
    mpirun(2, *words, "--out", "whole", cwd=tmp_path).check()
    place = {"import": "importing", "reshard": "rewriting"}[tool]
    dies = [f"{rank}:8:kill:hpcml.datasets.{place}:describe_file" for rank in (0, 1)]  # the faster one, which ends the other
    ended = Child([launcher(), "-n", "2", sys.executable, DYING, *dies, "--", *words, "--out", "out"], cwd=tmp_path).wait(40)
    assert ended.returncode not in (0, 124)
    hidden = tmp_path / "out" / ".hpcml-unfinished"
    assert list((tmp_path / "out").glob("*.h5")) == []
    kept = {
        path.name.removesuffix(".done"): (hidden / path.name.removesuffix(".done")).stat().st_mtime_ns
        for path in hidden.glob("part-*.done")
    }
    assert 5 <= len(kept) < 40
    mpirun(3, *words, "--out", "out", cwd=tmp_path).check()
    whole, out = files(tmp_path / "whole"), files(tmp_path / "out")
    assert out == whole
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == time_ns for name, time_ns in kept.items())
    assert "was finished before" in mpirun(1, *words, "--out", "out", cwd=tmp_path).check().stdout


def test_a_full_disk_is_told_and_leaves_nothing_half_written(mpirun, tmp_path):
    table(tmp_path / "t.csv", 10000)
    program = tmp_path / "limited.py"
    program.write_text(
        "import resource, signal, sys\n"
        "from hpcml.cli.main import main\n"
        "from hpcml.train import init\n"
        "init()  # MPI makes files of its own\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sys.dont_write_bytecode = True  # Python would keep what the limit leaves of it\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, {resource.RLIM_INFINITY}))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = start(2, program, "data", "import", "t.csv", "--out", "out", cwd=tmp_path).wait(50)
    assert done.returncode == 2, done.stderr
    assert "part-00000.h5" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "out").rglob("*.h5")] == []
    mpirun(2, "data", "import", "t.csv", "--out", "out", cwd=tmp_path).check()


def test_inspect_shows_a_table_and_the_same_as_json(mpirun):
    shown = mpirun(2, "data", "inspect", DIGITS / "train-*.h5").check().stdout
    assert shown.startswith("5 files, ")
    assert shown.count("contiguous") == 2
    assert "positioned reads" in shown
    plain = json.loads(mpirun(1, "data", "inspect", DIGITS / "train-*.h5", "--json").check().stdout)
    assert [(one["name"], one["rows"], one["amplification"]) for one in plain["sets"]] == [("x", 1438, 1.0), ("y", 1438, 1.0)]
    assert plain["differ"] == plain["advice"] == []


def test_inspect_says_first_what_a_run_would_refuse(tmp_path, capsys):
    from hpcml.cli.main import main

    for i in range(12):
        with h5py.File(tmp_path / f"{i}.h5", "w") as file:
            layout = {"chunks": (2, 2), "compression": "gzip"} if i else {}
            file.create_dataset("x", data=np.ones((4, 2 if i == 11 else 3), "f4"), **layout)
    assert main(["data", "inspect", str(tmp_path / "*.h5")]) == 0
    lines = capsys.readouterr().out.splitlines()
    differing = [line for line in lines if line.startswith("differs:")]
    assert differing[0].endswith("11.h5: 'x' has rows of (2,), the first file (3,)")
    assert differing[-1] == "differs: and 14 more, which --json lists"
    assert any(line.startswith("advice: a data set has another dtype or row shape") for line in lines)


def test_plan_recommends_a_shuffle(mpirun, repository):
    shown = mpirun(2, "data", "plan", "jobs/digits.toml", cwd=repository).check().stdout
    assert [line.split()[0] for line in shown.splitlines()[2:6]] == ["none", "block", "window", "global"]
    assert "recommended: window" in shown
    plain = json.loads(mpirun(1, "data", "plan", "jobs/digits.toml", "--json", cwd=repository).check().stdout)
    assert [one["shuffle"] for one in plain["shuffles"]] == ["none", "block", "window", "global"]
    assert all(one["amplification"] == 1 for one in plain["shuffles"])


def test_what_cannot_be_inspected_or_planned_is_told_once(mpirun, tmp_path):
    for words in (("inspect", "gone.h5"), ("plan", "gone.toml")):
        done = mpirun(2, "data", *words, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("hpcml: error:") == 1
