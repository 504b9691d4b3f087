"""The techniques: one folder, one technique.

The names below are imported when they are first used, so ``import rdfia`` itself needs no data, network
or GPU::

    from rdfia import DANNModule, load_backbone
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdfia.adaptation.dann import DANNModule
    from rdfia.adaptation.methods.cdan import CDANEModule, CDANModule
    from rdfia.adaptation.methods.coral import CORALModule
    from rdfia.adaptation.methods.information_maximization import InformationModule
    from rdfia.adaptation.methods.mcc import MCCModule
    from rdfia.adaptation.methods.mcd import MCDModule
    from rdfia.adaptation.methods.mmd import DANModule, JANModule
    from rdfia.adaptation.methods.self_training import SelfTrainingModule
    from rdfia.adaptation.pseudo_labels import PseudoLabelModule
    from rdfia.common.backbones import classify, load_backbone
    from rdfia.common.checks import Normalized
    from rdfia.generation.cgan import cGANModule
    from rdfia.generation.gan import GANModule
    from rdfia.interpret.activations import activation_maps
    from rdfia.interpret.adversarial import fgsm, fool, pgd
    from rdfia.interpret.black_box_attacks import few_pixels, shapes
    from rdfia.interpret.class_visualization import visualize_classes
    from rdfia.interpret.robust_attacks import patch
    from rdfia.interpret.saliency import grad_cam, gradient, integrated_gradients, smooth_grad
    from rdfia.trained import load_classifier
    from rdfia.transfer.fine_tune import FineTuneModule
    from rdfia.transfer.svm_module import FeatureExtractorSVM

# Where each public name lives.
_HOMES = {
    "CDANEModule": "adaptation.methods.cdan",
    "CDANModule": "adaptation.methods.cdan",
    "CORALModule": "adaptation.methods.coral",
    "DANModule": "adaptation.methods.mmd",
    "DANNModule": "adaptation.dann",
    "FeatureExtractorSVM": "transfer.svm_module",
    "FineTuneModule": "transfer.fine_tune",
    "GANModule": "generation.gan",
    "InformationModule": "adaptation.methods.information_maximization",
    "JANModule": "adaptation.methods.mmd",
    "MCCModule": "adaptation.methods.mcc",
    "MCDModule": "adaptation.methods.mcd",
    "Normalized": "common.checks",
    "PseudoLabelModule": "adaptation.pseudo_labels",
    "SelfTrainingModule": "adaptation.methods.self_training",
    "activation_maps": "interpret.activations",
    "cGANModule": "generation.cgan",
    "classify": "common.backbones",
    "few_pixels": "interpret.black_box_attacks",
    "fgsm": "interpret.adversarial",
    "fool": "interpret.adversarial",
    "grad_cam": "interpret.saliency",
    "gradient": "interpret.saliency",
    "integrated_gradients": "interpret.saliency",
    "load_backbone": "common.backbones",
    "load_classifier": "trained",
    "patch": "interpret.robust_attacks",
    "pgd": "interpret.adversarial",
    "shapes": "interpret.black_box_attacks",
    "smooth_grad": "interpret.saliency",
    "visualize_classes": "interpret.class_visualization",
}
__all__ = [
    "CDANEModule",
    "CDANModule",
    "CORALModule",
    "DANModule",
    "DANNModule",
    "FeatureExtractorSVM",
    "FineTuneModule",
    "GANModule",
    "InformationModule",
    "JANModule",
    "MCCModule",
    "MCDModule",
    "Normalized",
    "PseudoLabelModule",
    "SelfTrainingModule",
    "activation_maps",
    "cGANModule",
    "classify",
    "few_pixels",
    "fgsm",
    "fool",
    "grad_cam",
    "gradient",
    "integrated_gradients",
    "load_backbone",
    "load_classifier",
    "patch",
    "pgd",
    "shapes",
    "smooth_grad",
    "visualize_classes",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    """Return the public names too, for completion in a notebook."""
    return sorted({*globals(), *_HOMES})
