"""Alignments of features, against what they are defined by and other code."""

import numpy as np
import ot
import pytest
import torch
from scipy.linalg import sqrtm

from rdfia.adaptation.classical import align_subspaces, classify, coral, transport


def domains(turn: float = 0.6, count: int = 90):
    """Return three clusters in the plane and the same, turned, with labels; five more features are noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    angle = labels * 2 * np.pi / 3
    found = []
    for more in (0.0, turn):
        place = torch.stack([torch.cos(angle + more), torch.sin(angle + more)], 1)
        plane = place + 0.15 * torch.randn(count, 2, generator=generator)
        found.append(torch.cat([plane, 0.02 * torch.randn(count, 5, generator=generator)], 1))
    return (*found, labels)


def test_coral_gives_the_source_the_covariance_of_the_target():
    source, target, _ = domains()
    target = target * torch.arange(1, 8) + 3
    found = coral(source, target)
    one = np.eye(7)
    covariances = [np.cov(part.double().numpy().T) + one for part in (source, target)]
    whiten, colour = np.linalg.inv(sqrtm(covariances[0])), sqrtm(covariances[1])
    expected = (source - source.mean(0)).double().numpy() @ whiten @ colour + target.mean(0).double().numpy()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_subspaces_are_turned_onto_each_other():
    source, target, _ = domains()
    ours, theirs = align_subspaces(source, target, target[:10], dimension=2)
    bases = [
        np.linalg.svd((part - part.mean(0)).double().numpy(), full_matrices=False)[2][:2].T
        for part in (source, target)
    ]
    expected = (source - source.mean(0)).double().numpy() @ bases[0] @ bases[0].T @ bases[1]
    np.testing.assert_allclose(np.abs(ours.numpy()), np.abs(expected), rtol=1e-4, atol=1e-4)
    own = (target - target.mean(0)).double().numpy()[:10] @ bases[1]
    np.testing.assert_allclose(np.abs(theirs.numpy()), np.abs(own), rtol=1e-4, atol=1e-4)
    # signs of both go together: distances are those of the definition
    np.testing.assert_allclose(
        torch.cdist(ours, theirs).numpy(), torch.cdist(*map(torch.from_numpy, (expected, own))), atol=1e-4
    )


def test_transport_moves_each_class_to_its_own():
    source, target, labels = domains()
    moved = transport(source, target, labels, 0.02)
    for label in range(3):
        means = torch.stack([target[labels == other].mean(0) for other in range(3)])
        to = torch.cdist(moved[labels == label].mean(0)[None], means)
        assert int(to.argmin()) == label
    plan = ot.da.SinkhornLpl1Transport(reg_e=0.02, reg_cl=0.02, norm="max")
    plan.fit(Xs=source.double().numpy(), ys=labels.numpy(), Xt=target.double().numpy())
    np.testing.assert_allclose(plan.coupling_.sum(1), 1 / 90, rtol=1e-3)  # of each source image all


@pytest.mark.parametrize("classifier", ["svm", "nearest-mean"])
def test_alignment_helps_where_features_were_turned(classifier):
    source, target, labels = domains(turn=0.9)

    def accuracy(name: str) -> float:
        return float((classify(name, source, labels, target, target) == labels).float().mean())

    alone = accuracy(classifier)
    assert alone < 0.8
    assert accuracy(f"transport-{classifier}") > alone + 0.1
    for alignment in (
        "coral",
        "subspace",
    ):  # do what they can: a turn of three like clusters has no covariance
        assert 0 <= accuracy(f"{alignment}-{classifier}") <= 1
    with pytest.raises(ValueError, match="no alignment 'magic'"):
        accuracy(f"magic-{classifier}")
    with pytest.raises(ValueError, match="no classifier 'forest'"):
        accuracy("forest")
