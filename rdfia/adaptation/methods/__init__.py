"""Methods of unsupervised domain adaptation beside DANN, one file each.

A method is what its loss adds to the cross-entropy of labelled source images: pure functions, and a subclass
of `rdfia.adaptation.module.AdaptationModule` that calls them in ``adaptation_loss``, which lambda weighs, or
in ``compare``, where it does something else.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdfia.adaptation.module import AdaptationModule

# Methods by the names that flags have for them: a new one is a line here.
METHODS = {
    "dann": "dann.DANNModule",
    "cdan": "methods.cdan.CDANModule",
    "cdan-e": "methods.cdan.CDANEModule",
    "coral": "methods.coral.CORALModule",
    "dan": "methods.mmd.DANModule",
    "jan": "methods.mmd.JANModule",
    "information": "methods.information_maximization.InformationModule",
    "mcc": "methods.mcc.MCCModule",
    "mcd": "methods.mcd.MCDModule",
    "self-training": "methods.self_training.SelfTrainingModule",
}


def module_of(method: str) -> "type[AdaptationModule]":
    """Return the module of a method, by the name that flags have for it or that of the module itself.

    Raises:
        ValueError: There is none.
    """
    for name, place in METHODS.items():
        file, _, kind = place.rpartition(".")
        if method in (name, kind):
            found: type[AdaptationModule] = getattr(import_module(f"rdfia.adaptation.{file}"), kind)
            return found
    raise ValueError(f"method {method!r} is none of {', '.join(METHODS)}")
