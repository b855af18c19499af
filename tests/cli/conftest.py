"""A small job in a fresh folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small import Job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A small job in a fresh folder."""
    return Job(tmp_path)
