"""Adaptation of features that are there, without a network: align them, then classify.

* CORAL (Sun, Feng & Saenko, "Return of frustratingly easy domain adaptation", AAAI 2016): source features get
  the covariance of the target's.
* Subspace alignment (Fernando et al., ICCV 2013): the source's principal components are turned onto the
  target's.
* Optimal transport (Courty et al., "Optimal transport for domain adaptation", TPAMI 2017): source images move
  to the target images that a cheapest plan of transport sends them to.
"""

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestCentroid
from sklearn.svm import LinearSVC
from torch import Tensor

CLASSIFIERS = ("svm", "nearest-mean")


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Return source features (N, F) with mean and covariance of the target's (M, F).

    Covariances get the identity added, as in the paper, so that they can be inverted.
    """

    def root(features: Tensor, power: float) -> Tensor:
        matrix = torch.cov(features.double().T) + torch.eye(features.shape[1], dtype=torch.float64)
        values, vectors = torch.linalg.eigh(matrix)
        found: Tensor = vectors * values.pow(power) @ vectors.T
        return found

    centred = source.double() - source.double().mean(0)
    return (centred @ root(source, -0.5) @ root(target, 0.5) + target.double().mean(0)).to(source.dtype)


def align_subspaces(
    source: Tensor, target: Tensor, images: Tensor, dimension: int = 50
) -> tuple[Tensor, Tensor]:
    """Return features in principal components of their domain, the source's turned onto the target's.

    Args:
        source: (N, F).
        target: (M, F), from which the target's components come.
        images: (I, F), of the target, to be classified.
        dimension: Number of components, at most N - 1 and M - 1.

    Returns:
        Those of the source (N, D) and of ``images`` (I, D).
    """
    count = min(dimension, len(source) - 1, len(target) - 1, source.shape[1])
    ours, theirs = (PCA(count, random_state=0).fit(one.double().numpy()) for one in (source, target))
    turned = ours.transform(source.double().numpy()) @ (ours.components_ @ theirs.components_.T)
    there = theirs.transform(images.double().numpy())
    return torch.from_numpy(turned).float(), torch.from_numpy(there).float()


def transport(source: Tensor, target: Tensor, labels: Tensor, regularization: float = 0.1) -> Tensor:
    """Return source features (N, F) where optimal transport moves them among the target's (M, F).

    With an entropy, and a penalty on target images that images of several classes move to.

    Args:
        source: (N, F).
        target: (M, F).
        labels: Of the source, (N,).
        regularization: Of the plan, where the largest cost is 1.

    Raises:
        ValueError: POT is not installed.
    """
    try:
        import ot
    except ImportError as error:
        raise ValueError("optimal transport needs POT; run: pip install 'rdfia[transport]'") from error
    plan = ot.da.SinkhornLpl1Transport(reg_e=regularization, reg_cl=regularization, norm="max")
    plan.fit(Xs=source.double().numpy(), ys=labels.numpy(), Xt=target.double().numpy())
    return torch.from_numpy(plan.transform(Xs=source.double().numpy())).float()


def classify(name: str, source: Tensor, labels: Tensor, target: Tensor, images: Tensor) -> Tensor:
    """Return the classes (I,) that a classifier of aligned features gives to images of the target.

    Features are divided by their length first.

    Args:
        name: ``svm`` or ``nearest-mean``, with ``coral-``, ``subspace-`` or ``transport-`` before it if they
            are aligned.
        source: (N, F).
        labels: Of the source, (N,).
        target: (M, F), to which the source is aligned.
        images: (I, F), of the target, to be classified.

    Raises:
        ValueError: There is no such method.
    """
    ours, theirs, asked = (torch.nn.functional.normalize(one.float()) for one in (source, target, images))
    classifier = next((one for one in CLASSIFIERS if name.endswith(one)), name)
    alignment = name.removesuffix(classifier).rstrip("-")
    if alignment == "coral":
        # Of unit length the identity would drown the covariance: give each feature variance 1 on average.
        scale = ours.var(0).mean().rsqrt()
        ours, asked = coral(ours * scale, theirs * scale), asked * scale
    elif alignment == "subspace":
        ours, asked = align_subspaces(ours, theirs, asked)
    elif alignment == "transport":
        ours = transport(ours, theirs, labels)
    elif alignment:
        raise ValueError(f"no alignment {alignment!r}; there are coral, subspace and transport")
    if classifier not in CLASSIFIERS:
        raise ValueError(f"no classifier {classifier!r}; there are {' and '.join(CLASSIFIERS)}")
    # One C for all: by the mean square of the features, as of a kernel of mean diagonal 1.
    size = float(ours.square().sum(1).mean())
    model = NearestCentroid() if classifier == "nearest-mean" else LinearSVC(C=1 / size, random_state=0)
    model.fit(ours.numpy(), labels.numpy())
    return torch.from_numpy(np.asarray(model.predict(asked.numpy()))).long()
