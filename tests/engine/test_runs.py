"""What results.json holds of numbers: means, deviations, intervals."""

import pytest
from scipy.stats import binomtest

from rdfia.engine.runs import summarized


def test_a_share_of_one_seed_has_its_interval_and_those_of_several_their_deviation():
    one = summarized({"accuracy": [0.9], "accuracy_of": [50]})
    expected = binomtest(45, 50).proportion_ci(0.95, method="wilson")
    assert one.keys() == {"accuracy"}
    assert one["accuracy"]["of"] == 50
    assert one["accuracy"]["interval"] == pytest.approx([expected.low, expected.high], abs=1e-4)
    two = summarized({"accuracy": [0.9, 0.7], "accuracy_of": [50, 50]})["accuracy"]
    assert two == {"mean": pytest.approx(0.8), "std": pytest.approx(0.1 * 2**0.5), "values": [0.9, 0.7]}


def test_what_is_no_number_is_left_out_of_the_mean():
    found = summarized({"loss": [1.0, float("nan"), None]})["loss"]
    assert found == {"mean": 1.0, "std": None, "values": [1.0, None, None]}
