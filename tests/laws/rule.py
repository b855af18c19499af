"""What every optimizer rule does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpcml.arrays import to_host
from hpcml.optim import Scratch, Steps, apply_whole


class RuleLaws:
    """What every rule does; `make(rate)` returns it, `textbook` takes the same steps plainly, on float64 vectors and out of place."""

    parts = (slice(0, 6), slice(6, 7), slice(7, 37))

    def make(self, rate: Any) -> Any:
        raise NotImplementedError

    def textbook(self, p: np.ndarray, gradients: np.ndarray, rates: list[float]) -> np.ndarray:
        raise NotImplementedError

    def run(self, rule: Any, p: np.ndarray, gradients: np.ndarray, xp: Any = np) -> np.ndarray:
        data = xp.array(p)
        state = xp.zeros((rule.slots, len(p)), data.dtype)
        work = Scratch(data, self.parts)
        for step, gradient in enumerate(gradients):
            apply_whole(rule, data, xp.array(gradient), state, step, work)
        return to_host(data)

    def case(self, seed: int = 0, steps: int = 6, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        return random.standard_normal(37).astype(dtype), random.standard_normal((steps, 37)).astype(dtype)

    def test_it_is_the_textbooks_rule(self, xp):
        p, gradients = self.case()
        expected = self.textbook(p.copy(), gradients, [0.1] * len(gradients))
        np.testing.assert_allclose(self.run(self.make(0.1), p, gradients, xp), expected, rtol=1e-12, atol=1e-12)

    def test_float32_follows_to_its_own_rounding(self, xp):
        p, gradients = self.case(1, dtype=np.float32)
        found = self.run(self.make(0.1), p, gradients, xp)
        assert found.dtype == np.float32
        expected = self.textbook(p.astype(np.float64), gradients.astype(np.float64), [0.1] * len(gradients))
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)

    @pytest.mark.parametrize("block", [1, 5, 36, 37, 64])
    def test_the_size_of_the_blocks_changes_no_bits(self, monkeypatch, block):
        p, gradients = self.case(2, dtype=np.float32)
        expected = self.run(self.make(0.1), p, gradients)
        monkeypatch.setattr("hpcml.optim.blocks.BLOCK", block)
        np.testing.assert_array_equal(self.run(self.make(0.1), p, gradients), expected)

    def test_a_rate_by_step_is_asked_for_every_step(self, xp):
        p, gradients = self.case(3)
        rate = Steps(0.1, every=2, factor=0.5)
        expected = self.textbook(p.copy(), gradients, [rate(step) for step in range(len(gradients))])
        np.testing.assert_allclose(self.run(self.make(rate), p, gradients, xp), expected, rtol=1e-12, atol=1e-12)

    def test_fresh_objects_go_on_from_a_saved_state(self):
        p, gradients = self.case(4)
        expected = self.run(self.make(0.1), p, gradients)
        rule, data = self.make(0.1), p.copy()
        state = np.zeros((rule.slots, len(p)))
        for step in range(3):
            apply_whole(rule, data, gradients[step].copy(), state, step, Scratch(data, self.parts))
        rule, data, state = self.make(0.1), data.copy(), state.copy()
        for step in range(3, 6):
            apply_whole(rule, data, gradients[step].copy(), state, step, Scratch(data, self.parts))
        np.testing.assert_array_equal(data, expected)
