"""Scores of a classifier and a domain classifier on one domain, and those that need no labels."""

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat


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


class DomainScores(Metric):
    """All that is asked about one domain, each image counted once, exact under DDP.

    ``compute`` returns loss, accuracy, domain_loss and domain_accuracy; of the target also what needs no
    labels: entropy of the predictions, information and density (see `information` and
    `neighbourhood_density`). Loss and accuracy are left out where a label is -1.

    Args:
        is_target: What the domain classifier should say.
    """

    full_state_update = False
    logits: list[Tensor]
    domain_logits: list[Tensor]
    labels: list[Tensor]

    def __init__(self, *, is_target: bool) -> None:
        super().__init__()
        self.is_target = is_target
        for name in ("logits", "domain_logits", "labels"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, domain_logits: Tensor, labels: Tensor) -> None:
        """Add class logits (B, K), domain logits (B,) and labels (B,)."""
        self.logits.append(logits.float())
        self.domain_logits.append(domain_logits.float())
        self.labels.append(labels)

    def compute(self) -> dict[str, Tensor]:
        """Return the scores as float scalars."""
        logits, labels = dim_zero_cat(self.logits), dim_zero_cat(self.labels)
        domain_logits = dim_zero_cat(self.domain_logits) * (1 if self.is_target else -1)
        scores = {}
        if (labels >= 0).all():
            scores["loss"] = functional.cross_entropy(logits, labels)
            scores["accuracy"] = (logits.argmax(1) == labels).float().mean()
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
