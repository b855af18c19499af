"""Two classes of links under asp: inside a region as ssp, between regions filtered and counted; and bytes beside the formula's."""

from __future__ import annotations

import pytest

import hpcml
from hpcml.arrays import spans
from hpcml.errors import ConfigError
from hpcml.sync.server import ASP, BAP, BSP, SSP, TAP, Consistency, ElasticWorker, ParameterServer
from hpcml.sync.server.consistency import regions_of
from hpcml.sync.server.gate import LiveGate
from tests.small import CLASSES, WIDTH
from tests.sync.server.runs import B, N, V, train
from tests.sync.server.test_gate import Schedule, finished

NUMBERS = hpcml.nn.mlp([WIDTH, 5, CLASSES]).arena.n
STEPS = -(-N // B)


def test_in_2000_schedules_both_bounds_hold_and_everybody_ends():
    widest = 0
    for seed in range(2000):
        workers, inside, bound = 2 + seed % 4, seed // 4 % 2, 1 + seed // 8 % 3
        schedule = Schedule(LiveGate(ASP(0.01, bound, 2, inside), workers), workers, 4, seed)
        schedule.run()
        regions = regions_of(workers, 2)
        assert finished(schedule), seed
        for who, clocks in schedule.reads:
            near = [clock for clock, region in zip(clocks, regions, strict=True) if region == regions[who]]
            assert clocks[who] - min(clocks) <= bound, seed
            assert clocks[who] - min(near) <= inside, seed
            widest = max(widest, clocks[who] - min(clocks) - inside)
    assert widest > 1  # between regions more slack was used than inside


def test_one_region_is_ssp_and_no_slack_is_bsp_whatever_the_threshold(shards):
    ssp, _ = train(1, 2, shards, ParameterServer(SSP(2)))
    bsp, _ = train(2, 2, shards, ParameterServer(BSP()))
    found, measured = train(1, 2, shards, ParameterServer(ASP(0.5, 2, 1)))
    assert found[0] == ssp[0]
    assert measured["bytes_between_regions"] == 0
    for ranks, model in ((1, ASP(0.5, 0, 1)), (3, ASP(0.5, 0, 1)), (3, ASP(0.0, 0, 2)), (2, ASP(0.0, 0, 4, 0))):
        assert train(ranks, 2, shards, ParameterServer(model))[0][0] == bsp[0]


def test_what_crosses_regions_is_counted_and_the_filter_saves_it_there_alone(shards):
    cut = [span.stop - span.start for span in spans(NUMBERS, V)]
    regions = regions_of(V, 2)
    slow = sum(numbers for mine in regions for theirs, numbers in zip(regions, cut, strict=True) if mine != theirs)
    for ranks in (1, 3):  # where workers live decides nothing
        _, whole = train(ranks, 2, shards, ParameterServer(ASP(0.0, 0, 2)))
        assert whole["bytes_between_regions"] == 2 * STEPS * 2 * 4 * slow
    _, filtered = train(1, 2, shards, ParameterServer(ASP(0.5, 2, 2)))
    assert 0 < filtered["bytes_between_regions"] < whole["bytes_between_regions"]


@pytest.mark.parametrize("consistency", [BSP(), SSP(2), BAP(), TAP(), ASP(0.5, 2)], ids=["bsp", "ssp", "bap", "tap", "asp"])
def test_no_more_bytes_travel_than_by_the_formula(shards, consistency):
    _, measured = train(3, 2, shards, ParameterServer(consistency))
    homes = [0, 1, 2, 2]  # of four shards on three ranks, and of as many workers
    cut = [span.stop - span.start for span in spans(NUMBERS, V)]
    away = sum(numbers for worker in homes for home, numbers in zip(homes, cut, strict=True) if home != worker)
    assert measured["bytes_by_formula"] == 2 * STEPS * 2 * 4 * away
    if consistency.awaits and not consistency.threshold:
        assert measured["bytes_sent"] == measured["bytes_by_formula"]
    else:
        assert 0 < measured["bytes_sent"] <= measured["bytes_by_formula"] * 1.1  # what is owed at the end is written once more


@pytest.mark.parametrize("plan", [ParameterServer(BAP(), ElasticWorker(3)), ParameterServer(BSP(), spare=1)], ids=["easgd", "spare"])
def test_periods_that_cross_epochs_and_gradients_too_late_send_no_more_than_the_formula_says(shards, plan):
    assert STEPS % 3
    for epochs in (1, 2, 3):
        _, measured = train(3, epochs, shards, plan)
        assert 0 < measured["bytes_sent"] <= measured["bytes_by_formula"]
        if not plan.spare:
            assert measured["bytes_sent"] == measured["bytes_by_formula"]


def test_regions_that_make_no_sense_are_refused(shards):
    for inside, regions, bound in ((3, 2, 2), (1, 0, 2), (-1, 2, 2), (1, 2, None)):
        with pytest.raises(ConfigError, match="inside each of"):
            Consistency(bound, threshold=0.1, regions=regions, inside=inside)
    with pytest.raises(ConfigError, match="regions is -1"):
        ASP(0.1, 2, -1)
    with pytest.raises(ConfigError, match="set it to 2 or fewer"):
        train(1, 1, shards, ParameterServer(ASP(0.1, 2, 3), servers=2))
