"""Every rule against its textbook, written once more here as plainly as numpy allows, and against PyTorch where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml.optim import LAMB, LARS, SGD, AdaGrad, AdamW, Clipped, Scratch, apply_whole
from tests.laws import RuleLaws


class TestPlainSGD(RuleLaws):
    def make(self, rate):
        return SGD(rate)

    def textbook(self, p, gradients, rates):
        for g, rate in zip(gradients, rates, strict=True):
            p = p - rate * g
        return p


class TestSGDWithDecay(RuleLaws):
    def make(self, rate):
        return SGD(rate, decay=0.05)

    def textbook(self, p, gradients, rates):
        for g, rate in zip(gradients, rates, strict=True):
            p = p - rate * (g + 0.05 * p)
        return p


class TestMomentum(RuleLaws):
    def make(self, rate):
        return SGD(rate, momentum=0.9, decay=0.01)

    def textbook(self, p, gradients, rates):
        v = 0
        for g, rate in zip(gradients, rates, strict=True):
            v = 0.9 * v + g + 0.01 * p
            p = p - rate * v
        return p


class TestNesterov(RuleLaws):
    def make(self, rate):
        return SGD(rate, momentum=0.9, nesterov=True, decay=0.01)

    def textbook(self, p, gradients, rates):
        v = 0
        for g, rate in zip(gradients, rates, strict=True):
            g = g + 0.01 * p
            v = 0.9 * v + g
            p = p - rate * (g + 0.9 * v)
        return p


class TestAdamW(RuleLaws):
    def make(self, rate):
        return AdamW(rate, beta1=0.8, beta2=0.95, epsilon=1e-6, decay=0.1)

    def textbook(self, p, gradients, rates):
        m = v = 0
        for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
            m = 0.8 * m + 0.2 * g
            v = 0.95 * v + 0.05 * g**2
            p = p - rate * 0.1 * p
            p = p - rate * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6)
        return p


class TestAdaGrad(RuleLaws):
    def make(self, rate):
        return AdaGrad(rate, epsilon=1e-6, decay=0.1)

    def textbook(self, p, gradients, rates):
        s = 0
        for g, rate in zip(gradients, rates, strict=True):
            g = g + 0.1 * p
            s = s + g**2
            p = p - rate * g / (np.sqrt(s) + 1e-6)
        return p


class TestLARS(RuleLaws):
    def make(self, rate):
        return LARS(rate, momentum=0.9, decay=0.1, trust=0.02)

    def textbook(self, p, gradients, rates):
        v = np.zeros_like(p)
        for g, rate in zip(gradients, rates, strict=True):
            for part in self.parts:
                size, slope = np.linalg.norm(p[part]), np.linalg.norm(g[part])
                local = 0.02 * size / (slope + 0.1 * size)
                v[part] = 0.9 * v[part] + rate * local * (g[part] + 0.1 * p[part])
            p = p - v
        return p


class TestLAMB(RuleLaws):
    def make(self, rate):
        return LAMB(rate, beta1=0.8, beta2=0.95, epsilon=1e-6, decay=0.1)

    def textbook(self, p, gradients, rates):
        m = v = 0
        for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
            m = 0.8 * m + 0.2 * g
            v = 0.95 * v + 0.05 * g**2
            d = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6) + 0.1 * p
            for part in self.parts:
                p[part] = p[part] - rate * np.linalg.norm(p[part]) / np.linalg.norm(d[part]) * d[part]
        return p


class TestClippedLAMB(TestLAMB):
    """Clipping comes first: the norms that the rule judges by are those of the clipped gradient."""

    def make(self, rate):
        return Clipped(super().make(rate), norm=2.0)

    def textbook(self, p, gradients, rates):
        return super().textbook(p, gradients * np.minimum(1, 2.0 / np.linalg.norm(gradients, axis=1))[:, None], rates)


class TestClippedLARS(TestLARS):
    """As above."""

    def make(self, rate):
        return Clipped(super().make(rate), norm=2.0)

    def textbook(self, p, gradients, rates):
        return super().textbook(p, gradients * np.minimum(1, 2.0 / np.linalg.norm(gradients, axis=1))[:, None], rates)


class TestClippedMomentum(RuleLaws):
    def make(self, rate):
        return Clipped(SGD(rate, momentum=0.9), norm=2.0)

    def textbook(self, p, gradients, rates):
        shorter = gradients * np.minimum(1, 2.0 / np.linalg.norm(gradients, axis=1))[:, None]
        v = 0
        for g, rate in zip(shorter, rates, strict=True):
            v = 0.9 * v + g
            p = p - rate * v
        return p


LAWS = RuleLaws()


def test_a_gradient_within_the_norm_is_left_alone_to_the_bit():
    p, gradients = LAWS.case()
    np.testing.assert_array_equal(LAWS.run(Clipped(SGD(0.1), 100.0), p, gradients), LAWS.run(SGD(0.1), p, gradients))


def test_a_clipped_gradient_has_the_norm_and_its_own_direction():
    gradient = np.array([3.0, 4.0])
    data = np.zeros(2)
    apply_whole(Clipped(SGD(1.0), 1.0), data, gradient, np.zeros((0, 2)), 0, Scratch(data, [slice(0, 2)]))
    np.testing.assert_allclose(data, [-0.6, -0.8], rtol=1e-15)


def test_clipping_shows_the_inner_rules_rate_and_state():
    rule = Clipped(AdamW(0.3), 1.0)
    assert (rule.rate, rule.slots) == (0.3, 2)


def test_a_part_that_is_zero_moves_under_lars():
    p, g = np.zeros(4), np.ones(4)
    apply_whole(LARS(0.5), p, g, np.zeros((1, 4)), 0, Scratch(p, [slice(0, 4)]))
    np.testing.assert_array_equal(p, -0.5)


def test_a_part_that_is_zero_moves_under_lamb():
    p, g = np.zeros(4), np.ones(4)
    apply_whole(LAMB(0.5, epsilon=0.0), p, g, np.zeros((2, 4)), 0, Scratch(p, [slice(0, 4)]))
    np.testing.assert_allclose(p, -0.5)


def test_the_size_of_a_gradient_does_not_matter_to_lamb():
    p, gradients = LAWS.case()
    one, large = (LAWS.run(LAMB(0.1, epsilon=0.0), p, gradients * scale) for scale in (1.0, 1024.0))
    np.testing.assert_allclose(large, one, rtol=1e-12)


def test_no_momentum_keeps_no_state():
    assert SGD(0.1).slots == 0
    assert SGD(0.1, momentum=0.9).slots == 1
    assert repr(SGD(0.1)) != repr(SGD(0.1, momentum=0.9))


@pytest.mark.parametrize("n", [0, 1, 5, 12])
@pytest.mark.parametrize("block", [1, 4, 12, 99])
def test_blocks_cover_the_vector_once_with_scratch_of_their_length(monkeypatch, n, block):
    monkeypatch.setattr("hpcml.optim.blocks.BLOCK", block)
    work = Scratch(np.zeros(n), [])
    for whole in (slice(0, n), slice(n // 3, n)):
        covered = []
        for span in work.spans(whole):
            assert 0 < span.stop - span.start <= min(block, len(work.memory))
            covered += range(span.start, span.stop)
        assert covered == list(range(whole.start, whole.stop))


@pytest.mark.parametrize("laws", [TestPlainSGD, TestSGDWithDecay, TestMomentum, TestNesterov, TestAdamW, TestAdaGrad])
def test_pytorch_takes_the_same_steps(laws):
    torch = pytest.importorskip("torch")
    p, gradients = laws().case(5)
    rule = laws().make(0.1)
    weight = torch.nn.Parameter(torch.tensor(p))
    if isinstance(rule, SGD):
        theirs = torch.optim.SGD([weight], lr=0.1, momentum=rule.momentum, nesterov=rule.nesterov, weight_decay=rule.decay)
    elif isinstance(rule, AdaGrad):
        theirs = torch.optim.Adagrad([weight], lr=0.1, eps=rule.epsilon, weight_decay=rule.decay)
    else:
        theirs = torch.optim.AdamW([weight], lr=0.1, betas=(rule.beta1, rule.beta2), eps=rule.epsilon, weight_decay=rule.decay)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        theirs.step()
    np.testing.assert_allclose(laws().run(rule, p, gradients), weight.detach().numpy(), rtol=1e-10, atol=1e-12)
