"""Scores of a classifier and a domain classifier on one domain, and those that need no labels."""

import math

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

UNKNOWN = -2  # label of images whose class the source has not; -1 is no label


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy, in nats, of probabilities (..., K): (...,)."""
    entropies: Tensor = torch.special.entr(probabilities).sum(-1)
    return entropies


def information(probabilities: Tensor) -> Tensor:
    """Return the mutual information, in nats, of image and class, from probabilities (N, K).

    Large where single predictions are certain and all classes are predicted (Shi & Sha, ICML 2012): a score
    that needs no labels, at most log K.
    """
    return entropy(probabilities.mean(0)) - entropy(probabilities).mean()


def neighbourhood_density(probabilities: Tensor, temperature: float = 0.05) -> Tensor:
    """Return the soft neighbourhood density (Saito et al., ICCV 2021) of predictions (N, K).

    The mean entropy of each prediction's similarities to the others: large where predictions form dense
    clusters. Needs no labels.
    """
    points = functional.normalize(probabilities)
    found = []
    for rows in torch.split(torch.arange(len(points), device=points.device), 1024):  # bounds the memory
        similarity: Tensor = points[rows] @ points.T / temperature
        similarity[torch.arange(len(rows)), rows] = -torch.inf
        found.append(entropy(similarity.softmax(1)))
    return torch.cat(found).mean()


def importance_weights(source: Tensor, target: Tensor, *, seed: int = 0) -> Tensor:
    """Return how many times more probable the features of source images are in the target, (N,).

    By a linear classifier of domains (logistic regression), fitted on half of the images of each and asked
    about the other half of the source, and the other way round: no image is weighed by what it was fitted on.

    Args:
        source: Features (N, F).
        target: Features (M, F).
        seed: Of the halves.
    """
    halves = []
    for domain in (source, target):
        order = torch.randperm(len(domain), generator=torch.Generator().manual_seed(seed))
        halves.append(order.tensor_split(2))
    weights = torch.ones(len(source), dtype=torch.float64)
    for fitted, asked in ((0, 1), (1, 0)):
        ours, theirs = source[halves[0][fitted]], target[halves[1][fitted]]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        labels = torch.tensor([0] * len(ours) + [1] * len(theirs))
        model.fit(torch.cat([ours, theirs]).numpy(), labels.numpy())
        odds = torch.from_numpy(model.decision_function(source[halves[0][asked]].numpy())).double().exp()
        weights[halves[0][asked]] = odds * len(ours) / len(theirs)
    return weights


def weighted_risk(losses: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of weighted losses (N,), its variance reduced by the weights, whose mean should be 1.

    You et al., "Towards accurate model selection in deep unsupervised domain adaptation" (DEV), ICML 2019:
    weights are the control variate.
    """
    weighted = losses.double() * weights
    varying = weights.var(correction=0)
    if varying == 0:
        return weighted.mean()
    covariance = ((weighted - weighted.mean()) * (weights - weights.mean())).mean()
    return weighted.mean() - covariance / varying * (weights.mean() - 1)


def dev_risk(source: "DomainScores", target: "DomainScores", most: int = 1000) -> float:
    """Return the loss that source images lead to expect on the target (`weighted_risk`); lower is better.

    Args:
        source: With labels.
        target: Its labels are not looked at.
        most: Images of each domain that are used, evenly spread over all.
    """
    found = []
    for scores in (source, target):
        features = dim_zero_cat(scores.features).flatten(1).float().cpu()
        order = features.double().sum(1).argsort()  # the same for any number of processes
        every = torch.linspace(0, len(features) - 1, min(most, len(features))).round().long()
        found.append((features[order[every]], order[every]))
    (ours, every), (theirs, _) = found
    logits, labels = dim_zero_cat(source.logits).cpu()[every], dim_zero_cat(source.labels).cpu()[every]
    losses = functional.cross_entropy(logits, labels, reduction="none")
    if min(len(ours), len(theirs)) < 4 or not (ours.isfinite().all() and theirs.isfinite().all()):
        return math.nan
    return float(weighted_risk(losses, importance_weights(ours, theirs)))


def is_unknown(probabilities: Tensor) -> Tensor:
    """Return of which of probabilities (N, K) the entropy is over half of the largest, log(K) / 2: (N,) bool.

    Saito et al., DANCE, NeurIPS 2020: a threshold that nothing is tuned by.
    """
    return entropy(probabilities) > math.log(probabilities.shape[1]) / 2


def open_set_scores(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return how images of known and unknown classes are told, where uncertain ones are said to be unknown.

    Which are said to be so, see `is_unknown`. ``known_accuracy`` is the mean over the known classes
    of the share of their images that are named right, ``unknown_accuracy`` the share of the unknown that are
    said to be so, ``h_score`` their harmonic mean (Fu et al., ECCV 2020).

    Args:
        logits: (N, K) of the known classes.
        labels: (N,), from 0 to K - 1, or `UNKNOWN`.
    """
    doubted = is_unknown(logits.float().softmax(1))
    right = (logits.argmax(1) == labels) & ~doubted
    shares = [right[labels == one].float().mean() for one in labels[labels >= 0].unique()]
    known = torch.stack(shares).mean() if shares else torch.tensor(math.nan, device=logits.device)
    unknown = doubted[labels == UNKNOWN].float().mean()
    h_score = 2 * known * unknown / (known + unknown).clamp(min=1e-12)
    return {"known_accuracy": known, "unknown_accuracy": unknown, "h_score": h_score}


class DomainScores(Metric):
    """All that is asked about one domain, each image counted once, exact under DDP.

    ``compute`` returns loss and accuracy, domain_loss and domain_accuracy where there is a domain classifier;
    of the target also what needs no labels: entropy of the predictions, information and density (see
    `information` and `neighbourhood_density`). Loss and accuracy are left out where a label is -1. Where the
    target has images of classes that the source has not (label `UNKNOWN`), loss and accuracy are of the
    others, and unknown_accuracy and h_score say how it does on both, see `open_set_scores`.

    Args:
        is_target: What the domain classifier should say.
    """

    full_state_update = False
    logits: list[Tensor]
    domain_logits: list[Tensor]
    labels: list[Tensor]
    features: list[Tensor]

    def __init__(self, *, is_target: bool) -> None:
        super().__init__()
        self.is_target = is_target
        for name in ("logits", "domain_logits", "labels", "features"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(
        self,
        logits: Tensor,
        domain_logits: Tensor | None,
        labels: Tensor,
        features: Tensor | None = None,
    ) -> None:
        """Add class logits (B, K), domain logits (B,) if any, labels (B,), features (B, F) for `dev_risk`."""
        self.logits.append(logits.float())
        if domain_logits is not None:
            self.domain_logits.append(domain_logits.float())
        self.labels.append(labels)
        if features is not None:
            self.features.append(features.float())

    def compute(self) -> dict[str, Tensor]:
        """Return the scores as float scalars."""
        logits, labels = dim_zero_cat(self.logits), dim_zero_cat(self.labels)
        scores = {}
        known, unknown = labels >= 0, labels == UNKNOWN
        if (known | unknown).all() and known.any():
            scores["loss"] = functional.cross_entropy(logits[known], labels[known])
            scores["accuracy"] = (logits[known].argmax(1) == labels[known]).float().mean()
        if unknown.any():
            scores |= open_set_scores(logits, labels)
        if len(self.domain_logits):
            domain_logits = dim_zero_cat(self.domain_logits) * (1 if self.is_target else -1)
            scores |= {
                "domain_loss": functional.softplus(-domain_logits).mean(),
                "domain_accuracy": (domain_logits > 0).float().mean(),
            }
        if self.is_target:
            probabilities = logits.softmax(1)
            scores["entropy"] = entropy(probabilities).mean()
            scores["information"] = information(probabilities)
            scores["density"] = neighbourhood_density(probabilities)
        return scores
