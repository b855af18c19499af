"""``import hpcml`` is light: a thousand ranks do it at once, from one file system."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ["cupy", "h5py", "matplotlib", "mpi4py.MPI", "msgspec", "onnx", "rich", "safetensors", "scipy", "sklearn"]


@pytest.fixture(scope="module")
def loaded():
    """The names of all modules that a fresh Python holds after `import hpcml`."""
    program = "import json, sys; import hpcml; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", HEAVY)
def test_importing_hpcml_loads_no_heavy_library(loaded, module):
    assert module not in loaded


def test_the_package_says_that_it_is_typed(repository):
    assert (repository / "hpcml" / "py.typed").exists()
