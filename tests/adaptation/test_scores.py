"""Scores of a classifier on two domains."""

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch.nn import functional

from rdfia.adaptation.scores import DomainScores, information, neighbourhood_density


def test_information_is_that_of_the_joint_distribution():
    p = torch.randn(50, 4).softmax(1).double()
    joint = p / 50
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    torch.testing.assert_close(information(p), (joint * (joint / independent).log()).sum())
    assert information(torch.eye(10)[torch.arange(100) % 10]) == pytest.approx(math.log(10))
    assert information(torch.eye(10)[torch.zeros(100, dtype=torch.long)]) == pytest.approx(0, abs=1e-6)


def test_neighbourhood_density_is_that_of_its_definition():
    p = torch.randn(40, 5).softmax(1).double()
    total = 0.0
    for i in range(40):
        others = [j for j in range(40) if j != i]
        logits = torch.stack([functional.cosine_similarity(p[i], p[j], 0) / 0.05 for j in others])
        q = logits.softmax(0)
        total -= float((q * q.log()).sum())
    assert float(neighbourhood_density(p)) == pytest.approx(total / 40)
    # each image's neighbours are the nine others of its class, all alike
    assert float(neighbourhood_density(torch.eye(10)[torch.arange(100) % 10])) == pytest.approx(
        math.log(9), 1e-3
    )


def test_scores_are_those_of_scikit_learn():
    scores = DomainScores(is_target=True)
    logits, told, labels = torch.randn(30, 10), torch.randn(30), torch.arange(30) % 10
    for rows in torch.arange(30).split(11):  # parts of different sizes count each image once
        scores.update(logits[rows], told[rows], labels[rows])
    found = scores.compute()
    assert float(found["accuracy"]) == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert float(found["loss"]) == pytest.approx(
        log_loss(labels, logits.softmax(1), labels=range(10)), rel=1e-5
    )
    assert float(found["domain_accuracy"]) == pytest.approx(accuracy_score(torch.ones(30), told > 0))
    assert float(found["domain_loss"]) == pytest.approx(
        log_loss(torch.ones(30), told.sigmoid(), labels=[0, 1]), rel=1e-5
    )
    source = DomainScores(is_target=False)
    source.update(logits, told, labels)
    assert float(source.compute()["domain_accuracy"]) == pytest.approx(1 - float(found["domain_accuracy"]))
