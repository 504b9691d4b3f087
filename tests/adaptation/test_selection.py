"""Scores that choose without target labels, and the judgement of them."""

import math
from types import SimpleNamespace

import pytest
import torch

from datamodules.domain_pair import UNKNOWN as UNKNOWN_OF_DATA
from rdfia.adaptation.scores import (
    UNKNOWN,
    DomainScores,
    dev_risk,
    importance_weights,
    open_set_scores,
    weighted_risk,
)
from rdfia.adaptation.selection import Run, chosen, rank_correlations, with_ensemble
from rdfia.common.ranks import mean_ranks
from rdfia.engine.candidates import KeepsCandidates, beats


def gaussians(shift: float, count: int = 2000):
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randn(count, 2, generator=generator) for _ in range(2))
    return source, target + torch.tensor([shift, 0.0])


def test_weights_are_the_ratio_of_densities():
    source, target = gaussians(0.7)
    found = importance_weights(source, target)
    truth = torch.exp(0.7 * source[:, 0] - 0.7**2 / 2).double()  # of two normal densities
    assert float(torch.corrcoef(torch.stack([found.log(), truth.log()]))[0, 1]) > 0.99
    assert float(found.mean()) == pytest.approx(1, abs=0.1)
    same = importance_weights(*gaussians(0.0))
    assert float((same - 1).abs().max()) < 0.3


def test_the_weighted_risk_by_hand_and_of_the_target():
    losses, weights = torch.tensor([1.0, 3.0]), torch.tensor([0.5, 2.5], dtype=torch.float64)
    # weighted losses 0.5 and 7.5; covariance with the weights 3.5, their variance 1, their mean 1.5
    assert float(weighted_risk(losses, weights)) == pytest.approx(4 - 3.5 * 0.5)
    assert float(weighted_risk(losses, torch.ones(2, dtype=torch.float64))) == 2
    source, target = gaussians(0.7)
    own, other = source[:, 0].square(), target[:, 0].square()
    found = float(weighted_risk(own, importance_weights(source, target)))
    assert abs(found - float(other.mean())) < abs(float(own.mean()) - float(other.mean())) / 3


def test_the_risk_of_a_module_is_of_its_source_images_alone():
    source, target = gaussians(0.7, 60)
    scores = []
    for is_target, features in ((False, source), (True, target)):
        one = DomainScores(is_target=is_target)
        labels = (features[:, 0] > 0).long() if not is_target else torch.full((60,), -1)
        one.update(torch.stack([-features[:, 0], features[:, 0]], 1), None, labels, features)
        scores.append(one)
    found = dev_risk(*scores)
    assert 0 < found < 1
    order = torch.randperm(60)  # as several processes gather them
    for one in scores:
        for name in ("logits", "labels", "features"):
            setattr(one, name, [getattr(one, name)[0][order]])
    assert dev_risk(*scores) == pytest.approx(found, rel=1e-6)
    scores[0].features[0][0] = math.nan
    assert math.isnan(dev_risk(*scores))


def test_known_and_unknown_are_scored_as_the_field_does():
    assert UNKNOWN == UNKNOWN_OF_DATA
    sure, unsure = [9.0, 0.0, 0.0], [0.1, 0.0, 0.0]
    logits = torch.tensor([sure, sure, unsure, [0.0, 9.0, 0.0], unsure, sure])
    labels = torch.tensor([0, 0, 0, 1, UNKNOWN, UNKNOWN])
    found = {name: float(value) for name, value in open_set_scores(logits, labels).items()}
    known = (2 / 3 + 1) / 2  # mean over the two known classes
    assert found["known_accuracy"] == pytest.approx(known)
    assert found["unknown_accuracy"] == pytest.approx(0.5)
    assert found["h_score"] == pytest.approx(2 * known * 0.5 / (known + 0.5))
    scores = DomainScores(is_target=True)
    scores.update(logits, None, labels)
    assert float(scores.compute()["accuracy"]) == 1  # of known images, doubts aside
    assert "domain_loss" not in scores.compute()
    assert math.isnan(open_set_scores(logits, torch.full((6,), UNKNOWN))["h_score"])


def test_ranks_and_what_beats_what():
    assert mean_ranks([[1.0, 5.0], [2.0, math.nan], [2.0, 6.0]]) == [1.5, 1.75, 2.75]
    assert beats([1.0, 2.0], [1.0, 1.0])
    assert beats([1.0, 2.0], [1.0, math.nan])
    assert not beats([math.nan, 2.0], [1.0, 1.0])
    assert not beats([2.0, 0.0], [1.0, 1.0])


def test_the_best_epoch_by_any_score_is_among_those_kept(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        keeps = KeepsCandidates(tmp_path, {"a": "val/a", "b": "val/b", "c": "val/c"}, low=("c",))
        table = torch.randint(0, 5, (12, 3), generator=generator).float().tolist()
        for epoch, row in enumerate(table):
            note(keeps, epoch, dict(zip("abc", row, strict=True)))
        for name, column in zip("abc", zip(*table, strict=True), strict=True):
            epoch = int(keeps.best(name).stem.removeprefix("candidate_"))
            assert column[epoch] == max(column)
        ranks = mean_ranks(table)
        epoch = int(keeps.best("a", "b", "c").stem.removeprefix("candidate_"))
        assert ranks[epoch] == pytest.approx(max(ranks))
        for path in tmp_path.iterdir():
            path.unlink()


def test_the_oracle_has_no_say_in_what_the_others_keep(tmp_path):
    for oracle in ([0.2, 0.9, 0.5], [0.9, 0.2, 0.5], [0.2, 0.5, 0.9]):
        fair = KeepsCandidates(tmp_path, {"a": "val/a", "b": "val/b"})
        other = KeepsCandidates(tmp_path, {"oracle": "val/oracle"}, prefix="oracle")
        assert fair.state_key != other.state_key
        for epoch, value in enumerate(oracle):
            for keeps in (fair, other):
                note(keeps, epoch, {"a": 1.0, "b": 0.5, "oracle": value})
        assert fair.best("a").name == "candidate_0.ckpt"  # the first of those that are alike
        assert other.best("oracle").name == f"oracle_{oracle.index(max(oracle))}.ckpt"


def test_a_score_that_is_never_a_number_chooses_nothing(tmp_path):
    keeps = KeepsCandidates(tmp_path, {"a": "val/a", "b": "val/b"})
    for epoch, value in enumerate((1.0, 2.0)):
        note(keeps, epoch, {"a": value, "b": math.nan})
    assert keeps.best("b") is None
    assert keeps.best("a", "b").name == "candidate_1.ckpt"
    runs = [
        Run("p", "x", 0, {"a": 1.0, "b": math.nan}, 0.1),
        Run("p", "y", 0, {"a": 2.0, "b": math.nan}, 0.9),
    ]
    assert "b" not in chosen(with_ensemble(runs))
    assert chosen(with_ensemble(runs))["all_by_rank"] == {"p": {0: 0.9}}


def note(keeps: KeepsCandidates, epoch: int, scores: dict[str, float]) -> None:
    """Tell a callback of an epoch, without a trainer."""

    logged = {f"val/{name}": value * (-1 if name == "c" else 1) for name, value in scores.items()}
    trainer = SimpleNamespace(
        sanity_checking=False,
        fast_dev_run=False,
        is_global_zero=True,
        current_epoch=epoch,
        callback_metrics=logged,
        state=SimpleNamespace(fn="fit"),
        save_checkpoint=lambda path, weights_only: path.touch(),
    )
    keeps.on_validation_end(trainer, None)


def test_scores_are_judged_within_each_pair():
    runs = [
        Run(pair, row, 0, {"good": accuracy, "bad": -accuracy}, accuracy)
        for pair, more in (("a", 0.0), ("b", 0.5))
        for row, accuracy in (("x", 0.1 + more), ("y", 0.3 + more), ("z", 0.2 + more))
    ]
    assert rank_correlations(runs) == {"good": [1, 1], "bad": [-1, -1]}
    everything = with_ensemble(runs)
    assert {run.scores["all_by_rank"] for run in everything} == {2.0}  # good and bad undo each other
    picked = chosen(runs)
    assert picked["good"] == picked["oracle"] == {"a": {0: 0.3}, "b": {0: 0.8}}
    assert picked["bad"] == {"a": {0: 0.1}, "b": {0: 0.6}}
    flat = [run._replace(accuracy=0.5) for run in runs]
    assert rank_correlations(flat) == {}  # there is nothing to correlate with
