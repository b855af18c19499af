"""The house is built as drawn: floors, doors, sizes, docstrings; docs/architecture.md gives the reasons."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "hpcml"

FLOORS = [
    {"errors"},
    {"arrays", "config"},
    {"comm", "data", "nn", "optim"},
    {"watch"},
    {"sync"},
    {"train"},
    {"adapters"},
    {"transforming", "opening", "synchronising", "modelling"},
    {"build"},
    {"trained", "exporting", "datasets", "bench", "report", "cluster"},
    {"cli"},
    {"__init__", "__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

DOORS = {
    "mpi4py": ("comm/mpi.py", "comm/node.py", "comm/start.py", "watch/"),
    "cupy": ("arrays/", "comm/nccl.py"),
    "numba": ("arrays/fast.py",),
    "llvmlite": ("arrays/fast.py",),
    "h5py": ("data/", "train/checkpoint.py"),
    "safetensors": ("exporting/",),
    "onnx": ("exporting/",),
}

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
MARKS = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
PLACES = re.compile(r"(?<![\w.~/])/(home|root|tmp|opt|mnt|scratch|work|usr|Users)\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def imported(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import at any depth: absolute, relative, or of a constant by import_module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: None if is_package and node.level == 1 else is_package - node.level]
                base = ".".join([*above, *filter(None, [base])])
            # `from hpcml import nn` is an arrow to nn, `from hpcml.nn import Arena` one to nn too.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            yield from ((node.lineno, name) for name in names)


def arrows(tree: ast.Module, path: str, package: str) -> Iterator[str]:
    """Yield every import that runs up, runs through a wall, or passes a library by another door than its own."""
    parts = path.removesuffix(".py").split("/")
    is_package = parts[-1] == "__init__"
    room = parts[0]
    if room not in FLOOR_OF:
        yield f"{path}: the room {room!r} stands on no floor; add it to FLOORS"
        return
    module = ".".join([package, *(parts[:-1] if is_package else parts)])
    for line, name in imported(tree, module, is_package):
        top, _, rest = name.partition(".")
        if top in DOORS and not path.startswith(DOORS[top]):
            yield f"{path}:{line}: {top} is imported only in {', '.join(DOORS[top])}"
        if top != package:
            continue
        goal = rest.split(".")[0] or "__init__"
        if goal not in FLOOR_OF:
            goal = "__init__"  # a public name, taken from the top of the house
        if goal != room and FLOOR_OF[goal] >= FLOOR_OF[room]:
            yield f"{path}:{line}: {room} may not import {goal}, which does not stand on a lower floor"


def undocumented(tree: ast.Module, path: str) -> Iterator[str]:
    """Yield every public module, class and function without a docstring."""
    if ast.get_docstring(tree) is None:
        yield f"{path}:1: the module has no docstring"
    pending: list[ast.Module | ast.ClassDef] = [tree]
    while pending:
        for node in pending.pop().body:
            if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
                continue
            marks = {ast.unparse(mark).split(".")[-1] for mark in node.decorator_list}
            if ast.get_docstring(node) is None and not marks & {"setter", "overload"}:
                yield f"{path}:{node.lineno}: {node.name} has no docstring"
            if isinstance(node, ast.ClassDef):
                pending.append(node)


def too_long(tree: ast.Module, text: str, path: str) -> Iterator[str]:
    """Yield the file if it is too long, and every function that is."""
    lines = text.count("\n")
    if lines > MAX_FILE_LINES:
        yield f"{path}: {lines} lines, at most {MAX_FILE_LINES}; split it by noun"
    for node in ast.walk(tree):
        if isinstance(node, Function):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}"


def unwanted(tree: ast.Module, text: str, path: str) -> Iterator[str]:
    """Yield marks of unfinished work, paths of a machine, and prints outside the command line."""
    for number, line in enumerate(text.splitlines(), 1):
        if mark := MARKS.search(line):
            yield f"{path}:{number}: {mark[0]} marks unfinished work"
        if place := PLACES.search(line):
            yield f"{path}:{number}: {place[0]} is a path of one machine"
    if not path.startswith("cli/"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                yield f"{path}:{node.lineno}: print outside cli/"


def violations(package: Path) -> list[str]:
    """Return everything in a package that is not as the house was drawn."""
    found: list[str] = []
    for file in sorted(package.rglob("*.py")):
        path, text = file.relative_to(package).as_posix(), file.read_text()
        tree = ast.parse(text, path)
        found += arrows(tree, path, package.name)
        found += undocumented(tree, path)
        found += too_long(tree, text, path)
        found += unwanted(tree, text, path)
    return found


def merge_marks(text: str) -> list[int]:
    """Return the numbers of the lines that a merge with conflicts leaves behind."""
    return [number for number, line in enumerate(text.splitlines(), 1) if re.match(r"(<{7}|>{7}|\|{7}) ", line)]


def test_marks_of_a_merge_are_found():
    assert merge_marks("a\n" + "<" * 7 + " HEAD\nb\n" + "=" * 7 + "\nc\n" + ">" * 7 + " 1234\n") == [2, 6]
    assert merge_marks("Title\n" + "=" * 7 + "\n<<< 1\n") == []


@pytest.mark.skipif(shutil.which("git") is None or not (PACKAGE.parent / ".git").exists(), reason="not a git checkout")
def test_no_file_was_left_in_the_middle_of_a_merge():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PACKAGE.parent, capture_output=True, text=True, check=True).stdout
    files = [PACKAGE.parent / name for name in listed.split("\0") if name]
    texts = {file: file.read_text(errors="replace") for file in files if file.is_file()}
    assert {str(file): found for file, text in texts.items() if (found := merge_marks(text))} == {}


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_the_makefile_can_be_read_and_lists_its_targets():
    done = subprocess.run(["make", "help"], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for name in ("install", "test", "test-huge", "check", "bench-collectives", "compare-strategies"):
        assert f"make {name} " in done.stdout


def test_the_house_is_as_drawn():
    assert "\n".join(violations(PACKAGE)) == ""


PLANTED = {
    "an arrow up": ("nn/a.py", "from hpcml.sync.tree import x", "nn may not import sync"),
    "through a wall": ("data/a.py", "import hpcml.comm.mpi", "data may not import comm"),
    "relative, up": ("optim/a.py", "from ..train import trainer", "optim may not import train"),
    "relative, two rooms": ("nn/layers/a.py", "from ...comm import mpi", "nn may not import comm"),
    "relative, in a package": ("sync/__init__.py", "from ..train import x", "sync may not import train"),
    "only for types": (
        "arrays/a.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hpcml.nn import x",
        "arrays may not import nn",
    ),
    "inside a function": ("comm/a.py", 'def f():\n    """F."""\n    from hpcml import data', "comm may not import data"),
    "by a name in a string": ("comm/a.py", "import importlib\nimportlib.import_module('hpcml.nn.arena')", "comm may not import nn"),
    "from the top": ("nn/a.py", "from hpcml import Trainer", "nn may not import __init__"),
    "the top itself": ("nn/a.py", "import hpcml", "nn may not import __init__"),
    "mpi4py elsewhere": ("sync/a.py", "from mpi4py import MPI", "mpi4py is imported only in"),
    "cupy elsewhere": ("nn/a.py", "import cupy.cuda", "cupy is imported only in"),
    "h5py elsewhere": ("train/meters.py", "import h5py", "h5py is imported only in"),
    "a new room": ("cellar/a.py", "x = 1", "stands on no floor"),
    "a long file": ("nn/a.py", "x = 1\n" * 301, "303 lines"),
    "a long function": ("nn/a.py", 'def f():\n    """F."""\n' + "    x = 1\n" * 60, "f has 62 lines"),
    "no docstring": ("nn/a.py", "class A:\n    '''A.'''\n    def b(self):\n        return 1", "b has no docstring"),
    "a mark": ("nn/a.py", "x = 1  # TO" + "DO: more", "marks unfinished work"),
    "a stub": ("nn/a.py", 'def f():\n    """F."""\n    raise NotImplemented' + "Error", "marks unfinished work"),
    "a print": ("train/a.py", "print(1)", "print outside cli/"),
    "a path": ("data/a.py", "x = '/ho" + "me/me/data'", "is a path of one machine"),
}

ALLOWED = {
    "down": ("sync/a.py", "from hpcml.comm.mpi import x\nfrom ..nn import arena"),
    "inside a room": ("nn/layers/a.py", "from ..arena import Arena\nfrom . import b\nfrom hpcml.nn import arena"),
    "inside a package": ("nn/__init__.py", "from .arena import Arena\nfrom hpcml.arrays import seeds"),
    "the doors": ("comm/mpi.py", "from mpi4py import MPI"),
    "prints of the command line": ("cli/main.py", "print(1)"),
    "a private function": ("nn/a.py", "def _f():\n    def inner():\n        return 1\n    return inner"),
    "the public names": ("__init__.py", "from .train.trainer import Trainer"),
    "relative paths": ("data/a.py", "x = 'data/tmp/a'\ny = 'https://example.org/work'"),
}


def plant(folder: Path, path: str, text: str) -> list[str]:
    file = folder / "hpcml" / path
    file.parent.mkdir(parents=True)
    file.write_text(f'"""A planted file."""\n{text}\n')
    return violations(folder / "hpcml")


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_found(tmp_path, name):
    path, text, message = PLANTED[name]
    found = plant(tmp_path, path, text)
    assert len(found) == 1, found
    assert message in found[0]


@pytest.mark.parametrize("name", ALLOWED)
def test_good_building_is_left_alone(tmp_path, name):
    assert plant(tmp_path, *ALLOWED[name]) == []
