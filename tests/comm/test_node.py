"""How much memory a node's ranks may share, and what is said when it is too little."""

from __future__ import annotations

import pytest

from hpcml.comm import node


@pytest.mark.parametrize(("limit", "most"), [("", 1 << 62), ("0", 0), (" 4096 ", 4096), ("64M", 0), ("-1", 0)])
def test_the_limit_is_read(monkeypatch, limit, most):
    monkeypatch.setenv("HPCML_SHARED_BYTES", limit)
    assert node.allowed() == most
    assert node.room() <= most


def test_the_room_is_what_the_node_has_left(monkeypatch, tmp_path):
    monkeypatch.delenv("HPCML_SHARED_BYTES", raising=False)
    monkeypatch.setattr(node, "SHARED_FILES", str(tmp_path))
    assert 0 < node.room() < 1 << 62
    monkeypatch.setattr(node, "SHARED_FILES", str(tmp_path / "none"))
    assert node.room() == 1 << 62


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("", "/dev/shm has 1.5 MB for them; enlarge it (mount -o remount"),
        ("9000000", "/dev/shm has 1.5 MB for them; enlarge it (mount -o remount"),
        ("1500000", "HPCML_SHARED_BYTES allows 1.5 MB; raise it, or unset it"),
        ("64M", "HPCML_SHARED_BYTES is '64M'; give a number of bytes"),
    ],
)
def test_the_remedy_is_that_of_the_cause(monkeypatch, limit, words):
    monkeypatch.setenv("HPCML_SHARED_BYTES", limit)
    text = node.explain("n7", 3_000_000, 1_500_000)
    assert text.startswith("the ranks on n7 need 3.0 MB more of shared memory, ")
    assert words in text
