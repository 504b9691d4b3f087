"""DANN of several seeds trained at once, their networks stacked; each ends as it would have alone."""

from collections.abc import Sequence

from torch import Tensor

from rdfia.adaptation.dann import DANNModule
from rdfia.adaptation.network import DomainAdversarialNetwork
from rdfia.common.checks import check_batch
from rdfia.common.stacked import Stacked, StackedSteps


class _StackedNetwork(Stacked):
    """Networks of DANN side by side."""

    trunk = None  # pretrained networks are not stacked

    def extract(self, images: Tensor) -> Tensor:
        """Map images (S, B, C, H, H) in [0, 1] to features (S, B, F)."""
        found: Tensor = self.call("", "extract_unchecked", images)
        return found

    def classifier(self, features: Tensor) -> Tensor:
        """Map features (S, B, F) to class logits (S, B, K)."""
        found: Tensor = self.call("classifier", "forward", features)
        return found

    def tell_domain(self, features: Tensor) -> Tensor:
        """Map features (S, B, F) to logits (S, B), large where they look like the target's."""
        found: Tensor = self.call("", "tell_domain", features)
        return found

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map images (S, B, C, H, H) in [0, 1] to class logits (S, B, K)."""
        return self.classifier(self.extract(*inputs))


class StackedDANN(StackedSteps, DANNModule):
    """Several `DANNModule` at once; dropout draws other masks than each alone would.

    Args:
        members: Of the same settings and networks.
    """

    loaded_as = "DANNModule"
    members: list[DANNModule]

    def __init__(self, members: Sequence[DANNModule]) -> None:
        super().__init__(**dict(members[0].hparams))
        object.__setattr__(self, "members", list(members))  # no parts of this module
        for name in ("network", "average"):
            if getattr(members[0], name) is not None:
                stacked = _StackedNetwork([getattr(member, name) for member in members])
                assert isinstance(stacked.template, DomainAdversarialNetwork)
                stacked.template.be_stackable()
                setattr(self, name, stacked)

    def check(self, images: Tensor, labels: Tensor | None, batch_idx: int) -> None:
        """Check batches (S, B, C, H, H) and labels (S, B)."""
        check_batch(
            images.flatten(0, 1), None if labels is None else labels.flatten(), self.classes, batch_idx
        )

    def unstack(self) -> None:
        """Give the members what was trained."""
        for number, member in enumerate(self.members):
            for name in ("network", "average"):
                stacked, network = getattr(self, name), getattr(member, name)
                if network is not None:
                    network.load_state_dict(stacked.state_of(number))
