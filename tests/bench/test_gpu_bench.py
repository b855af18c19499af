"""The GPU benchmark: its training steps run at tiny size on the CPU, and it ends with a clear line where no GPU is."""

from __future__ import annotations

import os
import subprocess
import sys

from hpcml.arrays import Device


def test_every_workload_has_a_row(monkeypatch, repository, capsys):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import gpu

    rows = gpu.workloads(Device(), 1)
    assert {row["workload"] for row in rows if row["contestant"] == "hpcml"} == {"mlp", "cnn", "transformer"}
    assert all(row["seconds"] > 0 for row in rows)
    assert len(capsys.readouterr().out.splitlines()) >= len(rows)


def test_without_a_gpu_it_says_so(repository):
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, repository / "benchmarks" / "gpu.py"]
    ended = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("no GPU was measured: ")
    assert len(ended.stderr.splitlines()) == 1
