"""Tables: which trainings they have, what becomes of their scores, how they are printed."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from rdfia.engine import tables
from rdfia.engine.args import RunArgs


@dataclass(frozen=True)
class Args(RunArgs):
    """Flags of a small table."""

    lr: float = 0.1
    seeds: tuple[int, ...] = ()
    part: tuple[int, int] | None = None


ROWS = {"as it is": {}, "lr 0.2": {"lr": 0.2}}
FREE = {"seeds": (), "part": None}


def listed(args: Args) -> list[tuple[str, int, str, float]]:
    asked = tables.trainings(args, ROWS, tables.by_seed(args), Path("folder"), FREE)
    return [(row, seed, one.name, one.lr) for row, seed, one in asked]


def test_each_row_is_trained_with_each_seed_in_a_folder_of_its_own():
    found = listed(Args(seeds=(3, 5), overwrite=True))
    assert found == [
        ("as it is", 3, "as-it-is_seed_3", 0.1),
        ("lr 0.2", 3, "lr-0.2_seed_3", 0.2),
        ("as it is", 5, "as-it-is_seed_5", 0.1),
        ("lr 0.2", 5, "lr-0.2_seed_5", 0.2),
    ]
    ((_, _, one),) = tables.trainings(
        Args(seed=7, overwrite=True), {"a": {}}, {7: {"seed": 7}}, Path("b"), FREE
    )
    assert (one.seed, one.output_dir, one.overwrite, one.seeds) == (7, Path("b"), False, ())


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5])
def test_the_parts_of_a_table_are_all_of_it_and_nothing_twice(parts):
    every = [one for part in range(parts) for one in listed(Args(seeds=(3, 5), part=(part, parts)))]
    assert sorted(every) == sorted(listed(Args(seeds=(3, 5))))


def test_repeats_need_not_be_seeds():
    turns = {"resnet18": {"name": "ignored"}}
    ((row, turn, one),) = tables.trainings(Args(seed=2), {"a b": {}}, turns, Path("x"), {})
    assert (row, turn, one.name) == ("a b", "resnet18", "a-b-resnet18_seed_2")


def test_scores_that_a_seed_lacks_are_nan_and_what_diverged_is_counted():
    table = tables.Table([3, 5])
    table.add("a", 3, {"loss": 1.0, "accuracy": 0.5})
    table.add("a", 5, {"loss": 2.0})
    assert table.status() == "finished"
    table.add_diverged("b", 5, {"loss": math.nan})
    found = table.metrics()
    assert list(found) == ["a/loss", "a/accuracy", "b/loss"]
    assert found["a/loss"] == [1.0, 2.0]
    assert found["a/accuracy"][0] == 0.5
    assert math.isnan(found["a/accuracy"][1])
    assert table.status() == "1 of 3 trainings diverged"
    assert table.diverged == ["b, seed 5: diverged"]


def test_a_table_is_printed_in_columns(capsys):
    metric = {"mean": 0.5, "std": None, "values": [0.5]}
    results = {"metrics": {"a/loss": metric, "long row/loss": metric, "a/target_loss": metric}}
    rows = {"a": "a/", "long row": "long row/"}
    lines = tables.show(
        results, rows, ["loss", "target_loss", "none"], digits=1, last=("outcome", dict.fromkeys(rows, "ok"))
    )
    assert lines == [
        ["", "loss", "target loss", "outcome"],
        ["a", "0.5", "0.5", "ok"],
        ["long row", "0.5", "", "ok"],
    ]
    printed = capsys.readouterr().out.splitlines()
    assert [len(line) for line in printed] == [len(printed[0])] * 3
    assert printed[1].split() == ["a", "0.5", "0.5", "ok"]
