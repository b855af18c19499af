"""Finished files are kept, damaged ones are not, and work of another kind is never mixed in."""

from __future__ import annotations

import pytest

from hpcml.data.journal import Journal, require_room
from hpcml.data.manifest import build_manifest, file_sha256, load_manifest, names_unique, write_json
from hpcml.errors import DataError


def make(journal, name, text="rows"):
    journal.path(name).write_text(text)
    journal.record(name, {"sha256": file_sha256(journal.path(name)), "rows": 3})


def test_what_is_finished_is_found_again_and_what_changed_is_not(tmp_path):
    journal = Journal(tmp_path / "out", {"tool": "a"})
    assert not journal.begin(["part-0.h5", "part-1.h5"])
    make(journal, "part-0.h5")
    make(journal, "part-1.h5")
    again = Journal(tmp_path / "out", {"tool": "a"})
    assert not again.begin(["part-0.h5", "part-1.h5"])
    assert again.finished("part-0.h5")["rows"] == 3
    again.path("part-1.h5").write_text("other")
    assert again.finished("part-1.h5") is None
    again.path("part-0.h5").unlink()
    assert again.finished("part-0.h5") is None
    assert again.finished("part-2.h5") is None


def test_half_a_record_is_none(tmp_path):
    journal = Journal(tmp_path, {})
    journal.begin([])
    (journal.folder / "a.done").write_text('{"sha25')
    assert journal.finished("a") is None


def test_other_work_with_finished_files_is_refused_and_without_is_forgotten(tmp_path):
    first = Journal(tmp_path, {"tool": "a"})
    first.begin([])
    first.record("scan-0", {"rows": 3})
    second = Journal(tmp_path, {"tool": "b"})
    assert not second.begin([])
    assert second.finished("scan-0") is None
    make(second, "part-0.h5")
    with pytest.raises(DataError, match="unfinished work of another command"):
        first.begin([])


def test_files_appear_together_with_the_manifest_and_the_work_folder_goes(tmp_path):
    journal = Journal(tmp_path, {"tool": "a"})
    journal.begin(["a.h5", "b.h5"])
    make(journal, "a.h5")
    make(journal, "b.h5")
    assert sorted(path.name for path in tmp_path.glob("*.h5")) == []
    journal.publish(["a.h5", "b.h5"], {"hpcml_manifest": 1, "files": {}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5", "manifest.json"]
    assert Journal(tmp_path, {"tool": "a"}).begin(["a.h5", "b.h5"])
    with pytest.raises(DataError, match="already holds a finished set"):
        Journal(tmp_path, {"tool": "b"}).begin([])


def test_a_move_that_was_interrupted_is_gone_on_with(tmp_path):
    journal = Journal(tmp_path, {"tool": "a"})
    journal.begin(["a.h5", "b.h5"])
    make(journal, "a.h5")
    make(journal, "b.h5")
    journal.path("a.h5").rename(tmp_path / "a.h5")
    again = Journal(tmp_path, {"tool": "a"})
    assert not again.begin(["a.h5", "b.h5"])
    assert all(again.finished(name) for name in ("a.h5", "b.h5"))
    again.publish(["a.h5", "b.h5"], {"hpcml_manifest": 1, "files": {}})
    assert (tmp_path / "b.h5").exists()


def test_files_of_somebody_else_are_not_replaced(tmp_path):
    (tmp_path / "a.h5").write_text("mine")
    with pytest.raises(DataError, match=r"a\.h5 already exists"):
        Journal(tmp_path, {}).begin(["a.h5"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_a_goal_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be made"):
        Journal(tmp_path / "file" / "out", {}).begin([])


def test_a_disk_without_room_is_refused_before_the_work(tmp_path):
    require_room(tmp_path, 10)
    with pytest.raises(DataError, match="the disk has"):
        require_room(tmp_path, 1 << 62)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"hpcml_manifest": 9, "files": {}}', '{"hpcml_manifest": 1, "files": []}'])
def test_another_file_is_no_manifest(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="manifest"):
        load_manifest(tmp_path / "manifest.json")


def test_a_manifest_of_no_files_and_a_folder_that_is_gone(tmp_path):
    assert build_manifest({})["rows"] == 0
    with pytest.raises(DataError, match="cannot be written"):
        write_json(tmp_path / "gone" / "manifest.json", {})
    with pytest.raises(DataError, match="same name"):
        names_unique([tmp_path / "a" / "x.h5", tmp_path / "b" / "x.h5"])
