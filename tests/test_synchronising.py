from __future__ import annotations

import pytest

from hpcml.comm.alone import Alone
from hpcml.config import load
from hpcml.sync import WarmStart
from hpcml.synchronising import build_sync
from tests.small import Job


@pytest.mark.parametrize(("warm", "told"), [(0.0, False), (1.5, False), (2.0, True), (7.0, True)])
def test_a_run_that_ends_within_its_warm_start_says_that_its_strategy_does_not_begin(tmp_path, warm, told):
    notes: list[str] = []
    config = load(Job(tmp_path).config, ["sync.name=local-steps", f"sync.warm_epochs={warm}"])
    plan = build_sync(config, 4, Alone(), notes)
    assert isinstance(plan, WarmStart) == (warm > 0)
    assert any(f"sync.warm_epochs is {warm:g}, train.epochs 2: local-steps does not begin" in note for note in notes) == told
