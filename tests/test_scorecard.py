"""The scorecard names tests that there are, keeps what it was told, and judges plain Flower by what Flower offers."""

from pathlib import Path

import pytest

from benchmarks import plain_flower, plain_runs, plain_units
from benchmarks.plain_flower import NOT_MEASURED, NOT_OFFERED, RUNS, UNITS, probe
from benchmarks.plain_outcome import not_offered
from benchmarks.planning import UNITS as UNIT_COSTS
from benchmarks.planning import Size, plan
from benchmarks.reliability import CHECKS, UNTESTED, Check, row_of, table


def test_the_scorecard_names_tests_that_there_are():
    assert [check.number for check in CHECKS] == list(range(1, 29))
    for check in CHECKS:
        assert check.tests or check.note
        for name in check.tests:
            file, _, test = name.partition("::")
            text = (Path(__file__).parent / file).read_text()
            assert not test or f"def {test}(" in text, name


def test_a_row_keeps_what_was_measured_with_the_same_tests_alone():
    check = Check(1, "something", ("test_run.py",))
    assert row_of(check, {})["result"] == "not run"
    assert row_of(Check(1, "something", (), "not tested"), {})["result"] == UNTESTED
    last = {"result": "passed", "tests": ["test_run.py"], "commit": "abc", "plain": "failed", "plain_why": "it did"}
    assert row_of(check, last).items() >= last.items()
    other = row_of(Check(1, "something", ("test_run.py", "test_more.py")), last)
    assert other["result"] == "not run"
    assert "commit" not in other
    assert (other["plain"], other["plain_why"]) == ("failed", "it did")
    assert "| failed |" in table([other])


def test_every_check_has_one_answer_of_plain_flower():
    answered = [*NOT_OFFERED, *NOT_MEASURED, *(number for numbers in {**RUNS, **UNITS}.values() for number in numbers)]
    assert sorted(answered) == list(range(1, 29))
    assert all(callable(getattr(plain_runs, name)) for name in RUNS)
    assert all(callable(getattr(plain_units, name)) for name in UNITS)


@pytest.mark.parametrize(
    ("name", "result", "words"),
    [
        ("malformed", "failed", "of 11 contained; end the run: another shape"),
        ("few_replies", "not offered", "one reply of four"),
        ("pickles", "passed", "refused"),
        ("clips", "failed", "an update of zeros ends in a ZeroDivisionError"),
        ("settings", "failed", "of 7 refused by name"),
    ],
)
def test_plain_flower_under_the_faults_that_need_no_run(name, result, words, tmp_path):
    """What is measured of the releases that are supported; one that mends a fault changes a line here."""
    (found,) = getattr(plain_units, name)(tmp_path).values()
    assert (found.result, words in found.why) == (result, True), found


def test_a_probe_that_is_not_over_in_time_or_breaks_says_nothing_of_flower(monkeypatch):
    assert probe("nothing_of_that_name", (1,))[1].result == "not measured"
    monkeypatch.setattr(plain_flower, "SECONDS", 0.1)
    assert probe("settings", (26,))[26].result == "not measured"


def test_what_is_not_offered_needs_no_run():
    found = dict(plain_flower.outcomes({4, 8}))
    assert found == {number: not_offered(NOT_OFFERED[number]) for number in (4, 8)}


def test_a_plan_is_arithmetic_on_its_units():
    units = {name: 1.0 for name in UNIT_COSTS}
    found = plan(units, Size(taking_part=10, steps=4, workers=8, nodes=2, rounds=3, attacked_rounds=2, iterations=40))
    assert found == {
        "start_s": 1.0,
        "round_s": 10 * (4 / 8 + 1),
        "rounds_s": 45.0,
        "attack_grnn_s": 40.0,
        "attack_inverting_s": 40.0,
        "driver_gb": 0.011,
        "node_gb": 0.004,
        "disk_gb": 0.022,
    }
    many = plan(units, Size(clients=10**6, taking_part=10, steps=4, workers=8, nodes=2, rounds=3))
    assert many["round_s"] == found["round_s"], "who does not take part costs nothing"
