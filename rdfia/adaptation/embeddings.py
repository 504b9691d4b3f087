"""Features of two domains, looked at: t-SNE, and how well a linear classifier tells the domains apart.

van der Maaten & Hinton, "Visualizing data using t-SNE", JMLR 2008; Ben-David et al., "Analysis of
representations for domain adaptation", NeurIPS 2006.
"""

import math

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor


def sample(count: int, size: int, seed: int = 0) -> Tensor:
    """Return the numbers of at most ``size`` of ``count`` items, drawn without repetition, int64."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:size]


def tsne(features: Tensor, *, perplexity: float = 30.0, seed: int = 0) -> Tensor:
    """Lay out features (N, F) in the plane: (N, 2) float32, the same for the same seed.

    Few samples are laid out too: the perplexity is at most a third of their number, and fewer than three
    are put on a line.

    Raises:
        ValueError: A feature is not a number, as after a training that diverged.
    """
    if not features.isfinite().all():
        raise ValueError("t-SNE needs finite features; these hold nan or inf")
    count = len(features)
    if count < 3:
        return torch.arange(count, dtype=torch.float32)[:, None].repeat(1, 2)
    points = features.flatten(1).float().cpu().numpy()
    # Principal components as a start keep the large distances; constant features have none.
    start = "pca" if points.shape[1] > 1 and points.std() > 0 else "random"
    layout = TSNE(perplexity=min(perplexity, (count - 1) / 3), init=start, random_state=seed, n_jobs=1)
    return torch.from_numpy(layout.fit_transform(points))


def umap(features: Tensor, *, seed: int = 0) -> Tensor:
    """Lay out features (N, F) in the plane by UMAP: (N, 2) float32, the same for the same seed.

    McInnes, Healy & Melville, 2018.

    Raises:
        ValueError: A feature is not a number, or umap-learn is not installed.
    """
    if not features.isfinite().all():
        raise ValueError("UMAP needs finite features; these hold nan or inf")
    try:
        from umap import UMAP
    except ImportError as error:
        raise ValueError("--embedding umap needs umap-learn; run: pip install 'rdfia[umap]'") from error
    count = len(features)
    if count < 4:
        return tsne(features, seed=seed)
    start = "random" if count < 10 else "spectral"
    model = UMAP(n_neighbors=min(15, count - 1), init=start, random_state=seed, n_jobs=1)
    return torch.from_numpy(model.fit_transform(features.flatten(1).float().cpu().numpy())).float()


def chance_distance(source: Tensor, target: Tensor, *, seed: int = 0) -> float:
    """Return `proxy_a_distance` of the same features with the domains drawn at random: what chance gives."""
    every = torch.cat([source, target])
    order = sample(len(every), len(every), seed + 1)
    return proxy_a_distance(every[order[: len(source)]], every[order[len(source) :]], seed=seed)


def proxy_a_distance(source: Tensor, target: Tensor, *, seed: int = 0) -> float:
    """Return ``2 (1 - 2 e)``, where e is a linear classifier's error at telling the domains apart.

    0: it guesses; 2: it is always right; nan: a feature is not finite, as after a training that diverged. The
    classifier (logistic regression on standardized features) is fitted on half of the images and tested on
    the others.

    Args:
        source: Features (N, F).
        target: Features (M, F).
        seed: Of the halves.

    Raises:
        ValueError: Fewer than two images in a domain.
    """
    if min(len(source), len(target)) < 2:
        raise ValueError(f"needs two images of each domain, got {len(source)} and {len(target)}")
    if not (source.isfinite().all() and target.isfinite().all()):
        return math.nan
    halves = []
    for domain in (source, target):
        order = sample(len(domain), len(domain), seed)
        halves.append(domain.flatten(1).float().cpu()[order].tensor_split(2))
    (train_source, test_source), (train_target, test_target) = halves
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    labels = torch.tensor([0] * len(train_source) + [1] * len(train_target))
    model.fit(torch.cat([train_source, train_target]).numpy(), labels.numpy())
    # each domain counts the same, whatever its number of images
    errors = [model.predict(test_source.numpy()).mean(), 1 - model.predict(test_target.numpy()).mean()]
    return float(2 * (1 - sum(errors)))
