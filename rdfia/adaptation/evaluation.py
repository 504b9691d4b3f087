"""How all methods of domain adaptation are scored: both domains, each under its own statistics."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rdfia.adaptation.domain_statistics import of_source
from rdfia.adaptation.network import DomainAdversarialNetwork
from rdfia.adaptation.scores import DomainScores, dev_risk
from rdfia.common.batches import images_of, labels_of
from rdfia.common.checks import check_batch, check_images
from rdfia.common.graphed import GraphsSteps
from rdfia.common.parallel import broadcast_buffers

PIXELS_AT_ONCE = 1_000_000  # of the images in a forward pass without gradients


class ScoredOnBothDomains(GraphsSteps):
    """Validation, test and prediction on two domains; loader 0 is the source, 1 the target."""

    network: DomainAdversarialNetwork
    average: DomainAdversarialNetwork | None
    adapt: bool
    classes: int
    loaded_as = ""  # name of the module that predicts from checkpoints of this one, where it is another

    def __init__(self) -> None:
        super().__init__()
        self.source_scores, self.target_scores = DomainScores(is_target=False), DomainScores(is_target=True)

    @property
    def evaluated(self) -> DomainAdversarialNetwork:
        """The network that is evaluated: the average of the weights, if there is one."""
        return self.average or self.network

    def forward(self, images: Tensor) -> Tensor:
        """Map images of the target (B, C, H, H) in [0, 1] to class logits (B, classes)."""
        if images.ndim != 2:  # they are features of a pretrained network
            check_images(images)
        logits: Tensor = self.evaluated(images)
        return logits

    def check(self, images: Tensor, labels: Tensor | None, batch_idx: int) -> None:
        """Check a batch, see `check_batch`."""
        if images.ndim in (2, 3):  # features, or several views of each
            images = images.new_zeros(len(images), 1, 1, 1)
        check_batch(images, labels, self.classes, batch_idx)

    def _score(self, batch: Any, domain: int, batch_idx: int) -> None:
        images, labels = images_of(batch), labels_of(batch)
        if labels is None:
            labels = torch.full((len(images),), -1, device=images.device)
        self.check(images, labels if domain == 0 else labels.clamp(min=0), batch_idx)
        with of_source(self.evaluated, domain == 0):
            features = self.evaluated.extract(images)
            logits: Tensor = self.evaluated.classifier(features)
            domain_logits = self.tell_domain(features, logits)
        (self.source_scores, self.target_scores)[domain].update(logits, domain_logits, labels, features)

    def tell_domain(self, features: Tensor, logits: Tensor) -> Tensor | None:
        """Return what the domain classifier says (B,), large where images look like the target's, or None."""
        return None

    def _log_scores(self, stage: str) -> None:
        for name, scores in {"source": self.source_scores, "target": self.target_scores}.items():
            if not scores.labels:
                continue
            for noun, value in scores.compute().items():
                # Nothing has taught the domain classifier where there was no adaptation.
                if self.adapt or not noun.startswith("domain"):
                    self.log(f"{stage}/{name}_{noun}", value, sync_dist=True)
        if stage == "val" and self.source_scores.labels and self.target_scores.labels:
            with self.source_scores.sync_context(), self.target_scores.sync_context():
                risk = dev_risk(self.source_scores, self.target_scores)
            self.log("val/dev_risk", risk, sync_dist=True)
        for scores in (self.source_scores, self.target_scores):
            scores.reset()

    def on_validation_epoch_start(self) -> None:
        """Let all processes score one network."""
        broadcast_buffers(self, self.trainer.world_size)

    def on_test_epoch_start(self) -> None:
        """Let all processes score one network."""
        broadcast_buffers(self, self.trainer.world_size)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score source images (loader 0) or target images (loader 1)."""
        self._score(batch, dataloader_idx, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log val/source_accuracy, val/target_accuracy and the other scores."""
        self._log_scores("val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score source images (loader 0) or target images (loader 1)."""
        self._score(batch, dataloader_idx, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log test/source_accuracy, test/target_accuracy and the other scores."""
        self._log_scores("test")

    @torch.no_grad()
    def outputs(self, batches: Iterable[Tensor], *, source: bool = False) -> tuple[Tensor, Tensor]:
        """Return features (N, F) and class probabilities (N, classes) of many images, on the CPU.

        Args:
            batches: Images (B, C, H, H) in [0, 1], wherever they are.
            source: They are the source's, and go under the BatchNorm statistics kept of it.
        """
        network = self.evaluated.eval()
        features, probabilities = [], []
        with of_source(network, source):
            for images in batches:
                # Large ones a few at once, whatever the batches: a card that trained is to hold them.
                for part in images.split(max(1, PIXELS_AT_ONCE // math.prod(images.shape[2:]))):
                    seen = network.extract(part.to(self.device))
                    features.append(seen.float().cpu())
                    probabilities.append(network.classifier(seen).float().softmax(1).cpu())
        return torch.cat(features), torch.cat(probabilities)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return probabilities (B, classes) of images (B, C, H, H), with or without labels beside them."""
        probabilities: Tensor = self(images_of(batch)).float().softmax(1)
        return probabilities

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save which method this is, and the hash of a pretrained network that is not saved."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["method"] = self.loaded_as or type(self).__name__
        if self.network.trunk is not None and self.network.trunk.weights_hash:
            checkpoint["trunk"] = self.network.trunk.weights_hash

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a pretrained network that is not saved is the one that the heads were trained on."""
        super().on_load_checkpoint(checkpoint)
        own, saved = self.loaded_as or type(self).__name__, checkpoint.get("method", "")
        if saved and saved != own:
            raise ValueError(f"the checkpoint is of {saved}, not of {own}; load it with {saved}")
        trunk = self.network.trunk
        if trunk is not None and trunk.weights_hash not in (None, checkpoint.get("trunk")):
            raise ValueError(
                f"the weights of {trunk.network.name} are not those that the heads were trained on"
            )
