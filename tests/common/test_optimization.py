"""Falling rates and averaged weights, by hand."""

import pytest
import torch
from torch import nn

from rdfia.common.optimization import average_weight, lr_factor, set_lr, update_average


def test_learning_rate_at_begin_middle_and_end():
    assert [lr_factor(p, "ganin") for p in (0, 0.5, 1)] == pytest.approx([1, 0.2608474, 0.1655596], abs=1e-6)
    assert [lr_factor(p, "cosine") for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert [lr_factor(p, "linear") for p in (0, 0.5, 0.75, 1)] == pytest.approx([1, 1, 0.5, 0])
    assert [lr_factor(p, "none") for p in (0, 0.5, 1)] == [1, 1, 1]


def test_the_average_follows_parameters_and_copies_buffers():
    average, model = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(model.weight, 3.0)
    model.running_mean.fill_(7.0)
    model.num_batches_tracked.fill_(5)
    update_average(average, model, average_weight(0.9, 10**6))
    assert average.weight.tolist() == pytest.approx([1.2, 1.2])
    assert average.running_mean.tolist() == [7.0, 7.0]
    assert average.num_batches_tracked == 5
    update_average(average, model, average_weight(0.9, 0))  # decay 1/10 at first
    assert average.weight.tolist() == pytest.approx([2.82, 2.82])


def test_a_rate_is_set_for_all_that_is_trained():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [{"params": first.parameters()}, {"params": second.parameters(), "lr": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_an_average_of_what_has_no_buffers():
    average, model = nn.Linear(1, 1), nn.Linear(1, 1)
    update_average(average, model, 1.0)
    assert torch.equal(average.weight, model.weight)
