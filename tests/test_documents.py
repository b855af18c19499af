"""Every example in README.md and docs/ runs, in order, in a folder that holds data/ and jobs/; Python under mpirun."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcml.cli import checkpoint, data, evaluate, predict, train
from tests.documents import Block, blocks, script
from tests.mpirun import Child, Result, start

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = [path for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))] if path.exists()]
BLOCKS = [block for path in DOCUMENTS for block in blocks(path)]
SECONDS = 200


def run(block: Block, workspace: Path) -> Result | None:
    """Run one block in a folder; None if nothing in it is to be run."""
    if block.reason:
        return None
    if block.language == "python":
        program = workspace / f"example_{block.line}.py"
        program.write_text(block.text + "\n")
        return start(2, program, cwd=workspace).wait(SECONDS)
    commands = script(block)
    return Child(["bash", "-euo", "pipefail", "-c", commands], cwd=workspace).wait(SECONDS) if commands else None


def furnished(folder: Path) -> Path:
    """Return a folder that looks like a clone to the examples, where they may write."""
    for name in ("data", "jobs"):
        if (REPOSITORY / name).exists():
            (folder / name).symlink_to(REPOSITORY / name)
    return folder


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory):
    """One folder a document, so that an example may use what an earlier one left."""
    return {path: furnished(tmp_path_factory.mktemp(path.stem)) for path in DOCUMENTS}


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_an_example_runs(block, workspaces):
    result = run(block, workspaces[block.path])
    if result is not None:
        result.check()


@pytest.mark.slow
def test_the_examples_of_the_helps_run_in_their_order(tmp_path):
    """Those on the digits; the first one fills runs/digits, which the others use."""
    modules = [train, evaluate, predict, checkpoint, *data.TOOLS]
    lines = [line.strip() for module in modules for line in module.EXAMPLE.splitlines() if re.match(r" .*hpcml .*(digits|runs/)", line)]
    assert len(lines) >= 9
    commands = "\n".join(lines)
    Child(["bash", "-euo", "pipefail", "-c", commands], cwd=furnished(tmp_path)).wait(SECONDS).check()


DOCUMENT = """
# Title
```console
$ echo "one" > file
one line of output; false
$ echo \\
    two >> file
```
<!-- not run: needs 64 ranks -->

```bash
mpirun -n 64 hpcml train jobs/digits.toml
```
```bash
make demo
sbatch jobs/digits.slurm
# a comment
cat file
```
```toml
[not] = run
```
```python
import sys
from mpi4py import MPI
sys.stdout.write(f"{open('file').read().split()} {MPI.COMM_WORLD.size};")  # one piece, so that ranks do not mix
```
```bash
false | true
```
"""


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "document.md"
    path.write_text(DOCUMENT)
    return path


def test_the_blocks_of_a_document_are_found_in_order(document):
    found = blocks(document)
    assert [block.language for block in found] == ["console", "bash", "bash", "python", "bash"]
    assert [block.reason for block in found] == ["", "needs 64 ranks", "", "", ""]
    assert str(found[0]) == "document.md:3"


def test_commands_are_kept_and_output_is_not(document):
    first, _, third, _, _ = blocks(document)
    assert script(first) == 'echo "one" > file\necho      two >> file'
    assert script(third) == "cat file"


def test_the_blocks_run_in_one_folder_and_python_in_a_world(document, tmp_path):
    results = [run(block, tmp_path) for block in blocks(document)]
    assert results[1] is None
    assert results[2].check().stdout == "one\ntwo\n"
    assert results[3].check().stdout.count("['one', 'two'] 2;") == 2


def test_a_failing_example_fails(document, tmp_path):
    assert run(blocks(document)[-1], tmp_path).returncode == 1


def test_a_mark_without_a_reason_is_no_mark(tmp_path):
    path = tmp_path / "a.md"
    path.write_text("<!-- not run: -->\n```bash\nls\n```\n")
    assert blocks(path)[0].reason == ""


def test_a_mark_counts_for_the_next_block_only(tmp_path):
    path = tmp_path / "a.md"
    path.write_text("<!-- not run: slow -->\n```bash\nls\n```\n```bash\nls\n```\n<!-- not run: slow -->\ntext\n```bash\nls\n```\n")
    assert [block.reason for block in blocks(path)] == ["slow", "", ""]


def test_a_block_that_is_never_closed_is_an_error(tmp_path):
    path = tmp_path / "a.md"
    path.write_text("```bash\nls\n")
    with pytest.raises(ValueError, match="never closed"):
        blocks(path)


def test_examples_find_the_data_and_the_jobs(tmp_path):
    assert (furnished(tmp_path) / "jobs" / "digits.toml").exists()
