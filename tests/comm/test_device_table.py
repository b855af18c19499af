from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.comm.device_table import OPERATIONS, ROADS, DeviceTable, Trial, choose, from_json, to_json
from hpcml.errors import ConfigError

SIZES = [1 << 10, 1 << 14, 1 << 20]
COLLECTIVES = [operation for operation in OPERATIONS if operation != "exchange"]
trials = st.lists(
    st.builds(
        Trial,
        operation=st.sampled_from(OPERATIONS),
        road=st.sampled_from(ROADS),
        nbytes=st.sampled_from(SIZES),
        seconds=st.floats(1e-6, 10),
        fault=st.sampled_from(["", "", "", "wrong values"]),
    ),
    max_size=40,
    unique_by=lambda trial: (trial.operation, trial.road, trial.nbytes),
)


@given(trials, st.integers(0, 1 << 40), st.sampled_from(OPERATIONS))
def test_a_road_with_a_fault_is_never_picked(rows, nbytes, operation):
    picked = choose(rows).pick(operation, nbytes)
    faulty = {row.road for row in rows if row.operation == operation and row.fault}
    assert picked not in faulty - {"staged"}


@given(trials, st.sampled_from(COLLECTIVES), st.sampled_from(SIZES))
def test_at_a_tried_size_the_fastest_of_the_right_roads_is_picked(rows, operation, nbytes):
    faulty = {row.road for row in rows if row.operation == operation and row.fault}
    here = [row for row in rows if (row.operation, row.nbytes) == (operation, nbytes) and row.road not in faulty]
    if here:
        picked = choose(rows).pick(operation, nbytes)
        assert min(here, key=lambda row: row.seconds).seconds == next(row.seconds for row in here if row.road == picked)


@given(trials, st.lists(st.integers(0, 1 << 40), min_size=2))
def test_an_exchange_takes_one_road_whatever_its_size(rows, sizes):
    table = choose(rows)
    assert len({table.pick("exchange", nbytes) for nbytes in sizes}) == 1


@given(trials)
def test_only_allowed_roads_are_chosen(rows):
    assert {road for chosen in choose(rows, ["staged", "nccl"]).choices.values() for _, road in chosen} <= {"staged", "nccl"}


@given(trials)
def test_trials_survive_their_file(rows):
    assert from_json(to_json(rows, "a library on a GPU", 2), "x.json") == (rows, "a library on a GPU", 2)


def test_sizes_between_two_trials_take_the_road_of_the_nearer_one_by_ratio():
    rows = [Trial("all_reduce", "staged", 100, 1.0), Trial("all_reduce", "nccl", 100, 2.0)]
    rows += [Trial("all_reduce", "staged", 10_000, 2.0), Trial("all_reduce", "nccl", 10_000, 1.0)]
    table = choose(rows)
    assert table.choices == {"all_reduce": [(0, "staged"), (1000, "nccl")]}
    assert table.lines() == ["all_reduce: staged from 0 bytes, nccl from 1,000 bytes"]


def test_without_trials_everything_is_staged():
    assert {DeviceTable({}).pick(operation, 10) for operation in OPERATIONS} == {"staged"}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"place": "a", "hosts": 1, "trials": [{"road": "x"}]}'])
def test_a_file_that_is_no_table_is_refused_with_the_remedy(text):
    with pytest.raises(ConfigError, match=r"t\.json: not a table of device roads .*hpcml probe"):
        from_json(text, "t.json")
