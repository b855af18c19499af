"""A run whose rows are kept in the node's memory or copied to its disk: the same bits, stopped and resumed."""

from __future__ import annotations

from tests.small import Job, explained


def test_rows_kept_by_a_node_change_no_bit_on_any_number_of_ranks_nor_after_a_resume(tmp_path):
    job = Job(tmp_path)
    job.train(2, "plain", "train.epochs=4").check()
    for ranks in (1, 3, 4):
        job.train(ranks, f"node-{ranks}", "train.epochs=4", 'data.cache="node"').check()
        assert job.digest(f"node-{ranks}") == job.digest("plain")
    job.train(4, "parts", "train.epochs=2", 'data.cache="node"').check()
    job.train(3, "parts", "train.epochs=4", 'data.cache="node"', options=("--resume",)).check()
    assert job.digest("parts") == job.digest("plain")
    assert not [row for row in job.events("parts") if "data.cache" in row.get("text", "")]


def test_without_room_the_run_goes_on_says_why_and_ends_the_same(tmp_path):
    job = Job(tmp_path)
    job.train(2, "plain").check()
    result = job.train(2, "short", 'data.cache="node"', env={"HPCML_SHARED_BYTES": "0"}).check()
    assert job.digest("short") == job.digest("plain")
    notes = [row["text"] for row in job.events("short") if row["event"] == "note"]
    assert [note for note in notes if note.startswith('data.cache = "node": 2 of 2 ranks read their rows from the files')]
    assert "HPCML_SHARED_BYTES allows 0.0 MB; raise it" in result.stdout


def test_shards_are_staged_once_and_a_folder_that_is_not_there_ends_the_start(tmp_path):
    job = Job(tmp_path)
    job.train(2, "plain").check()
    explained(job.train(3, "staged", 'data.stage="disk"'), "disk: data.stage is no folder on this node")
    (tmp_path / "disk").mkdir()
    for ranks, name in ((3, "staged"), (1, "again")):
        job.train(ranks, name, 'data.stage="disk"').check()
        assert job.digest(name) == job.digest("plain")
    copies = {path: path.stat().st_mtime_ns for path in (tmp_path / "disk").rglob("*.h5")}
    assert len(copies) == 4
    assert not list((tmp_path / "disk").rglob(".partial*"))
