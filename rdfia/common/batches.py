"""Images and labels of a batch, in whatever form a data loader gives it.

A tensor of images, ``(images,)``, ``(images, labels)`` and more, or a dictionary, as Hugging Face's data sets
have it.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

IMAGES = ("images", "image", "pixel_values", "img", "x")
LABELS = ("labels", "label", "targets", "target", "fine_label", "y")


def images_of(batch: Any) -> Tensor:
    """Return the images of a batch.

    Raises:
        ValueError: There are none; the message says what was seen.
    """
    found = batch
    if isinstance(batch, Mapping):
        found = next((batch[name] for name in IMAGES if name in batch), None)
    elif isinstance(batch, list | tuple) and batch:
        found = batch[0]
    if not isinstance(found, Tensor):
        seen = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else type(found).__name__
        raise ValueError(f"a batch is images, (images, labels) or a dictionary with images; got {seen}")
    return found


def labels_of(batch: Any) -> Tensor | None:
    """Return the labels of a batch, None where it has none."""
    found = None
    if isinstance(batch, Mapping):
        found = next((batch[name] for name in LABELS if name in batch), None)
    elif isinstance(batch, list | tuple) and len(batch) > 1:
        found = batch[1]
    return found if isinstance(found, Tensor) else None


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """Return images and labels of a batch.

    Raises:
        ValueError: It has no images, or no labels.
    """
    images, labels = images_of(batch), labels_of(batch)
    if labels is None:
        raise ValueError("labels are needed here, and the batch has none; give (images, labels)")
    return images, labels


def domains_of(batch: Any) -> dict[str, Any]:
    """Return the batches of source and target in a batch of two data loaders.

    A dictionary of ``source`` and ``target``, or a list of both, as Lightning makes it of a dictionary or a
    list of loaders; labelled images alone are of the source.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(batch, Mapping) and {"source", "target"} & set(batch):
        return dict(batch)
    if isinstance(batch, list | tuple) and len(batch) == 2 and not isinstance(batch[0], Tensor):
        return {"source": batch[0], "target": batch[1]}
    if isinstance(batch, Mapping) and not set(batch) & set(IMAGES):
        raise ValueError(f"a batch has source and target, got {', '.join(map(str, batch))}")
    return {"source": batch}
