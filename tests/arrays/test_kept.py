"""Compiled functions are kept where this user alone can write; what another could have put there is never run."""

from __future__ import annotations

import tempfile
from types import SimpleNamespace

import pytest

from hpcml.arrays.kept import keep_compiled, private_folder


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_private_folder_is_made_once_for_its_owner_alone(temporary):
    folder = private_folder("kept")
    assert folder.parent == temporary
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder("kept") == folder


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o750])
def test_a_folder_that_others_can_use_is_not_taken(temporary, mode):
    private_folder("kept").chmod(mode)
    assert private_folder("kept") is None


def test_a_link_a_file_or_another_users_folder_is_not_taken(temporary, monkeypatch):
    folder = private_folder("kept")
    me = folder.stat().st_uid
    folder.rename(temporary / f"kept-{me + 1}")
    folder.symlink_to(temporary / f"kept-{me + 1}")
    assert private_folder("kept") is None
    folder.unlink()
    folder.write_text("")
    assert private_folder("kept") is None
    monkeypatch.setattr("os.getuid", lambda: me + 1)
    assert private_folder("kept") is None


class Numba(SimpleNamespace):
    """Refuses to keep anything unless a folder that can be written is named, as numba does where home and package are read-only."""

    def njit(self, *, cache):
        def decorate(function):
            if cache and not self.config.CACHE_DIR:
                raise RuntimeError("cannot cache function: no locator available")
            return function

        return decorate


def test_where_numba_finds_no_folder_it_is_given_a_private_one(temporary):
    numba = Numba(config=SimpleNamespace(CACHE_DIR=""))
    assert keep_compiled(numba)
    assert str(private_folder("hpcml-numba")) == numba.config.CACHE_DIR


def test_where_nothing_can_be_written_it_compiles_without_keeping(temporary, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "absent"))
    numba = Numba(config=SimpleNamespace(CACHE_DIR=""))
    assert not keep_compiled(numba)
    assert numba.config.CACHE_DIR == ""


def test_a_folder_of_numbas_own_choice_stays(temporary):
    numba = Numba(config=SimpleNamespace(CACHE_DIR="chosen"))
    assert keep_compiled(numba)
    assert numba.config.CACHE_DIR == "chosen"
