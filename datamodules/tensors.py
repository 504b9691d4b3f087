"""Images that fit in memory as one uint8 tensor: a batch is one index operation.

The usual loop decodes, converts and collates image by image. Here the images lie side by side in one
tensor, a batch is ``images[indices]``, and conversion to float and augmentation run on the whole batch,
on the device the tensor lives on.

Batches are planned by samplers that subclass ``DistributedSampler``. Lightning leaves such samplers
as they are, so a bare ``lightning.Trainer`` keeps their promises: training sees the same global
batches on one process and on many, validation and test score each item exactly once. The dataset
works with the samplers that Lightning makes, too.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import lightning
import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn.functional import interpolate, pad
from torch.utils.data import DataLoader, Dataset, DistributedSampler

Batch = tuple[Tensor, Tensor]
Indices = Tensor | Sequence[int]


def as_is(batch: Batch) -> Batch:
    """Collate function for a dataset whose ``__getitems__`` returns a whole batch."""
    return batch


class ImageTensors(Dataset[Batch]):
    """Images and labels in memory; indexing with n indices gives a batch of n.

    Args:
        images: uint8, (N, C, H, W). They may be mapped from a file, see `datamodules.image_cache`.
        labels: int64, (N,); -1 where there is none.
        channels: Grey images are repeated to this many channels, batch by batch.
        size: Side of the square images that come out, brought to it batch by batch; None for their own.
        rows: (M,) of int64: only those images, in this order; ``labels`` are theirs, (M,).
        mapped: The images are mapped from a file, and stay there: no copy of all is made.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        channels: int | None = None,
        size: int | None = None,
        rows: Tensor | None = None,
        mapped: bool = False,
    ) -> None:
        count = images.shape[:1] if rows is None else rows.shape
        if images.dtype != torch.uint8 or images.ndim != 4 or labels.shape != count:
            raise ValueError(
                "expected uint8 images (N, C, H, W) and labels (N,), got "
                f"{images.dtype} {tuple(images.shape)} and {tuple(labels.shape)}"
            )
        self.pixels, self.labels, self.rows, self.mapped = images, labels, rows, mapped
        self.channels = channels or images.shape[1]
        self.size = None if images.shape[2:] == (size, size) else size

    @property
    def images(self) -> Tensor:
        """The images as bytes, (N, C, H, W): a copy where they are some of others."""
        return self.pixels if self.rows is None else self.pixels[self.rows]

    @property
    def device(self) -> torch.device:
        """Where the images lie."""
        return self.pixels.device

    @property
    def labelled(self) -> bool:
        """Whether all of them have a label."""
        return bool((self.labels >= 0).all())

    def _like(self, images: Tensor, labels: Tensor, rows: Tensor | None) -> "ImageTensors":
        kept: dict[str, Any] = {"channels": self.channels, "size": self.size}
        return ImageTensors(images, labels, rows=rows, mapped=self.mapped, **kept)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: int | Indices) -> Batch:
        """Return float images in [0, 1] and labels: (C, H, W) for an int, else (B, C, H, W).

        Indices may have more dimensions, which images and labels have then, too.
        """
        if isinstance(indices, int):
            images, labels = self[[indices]]
            return images[0], labels[0]
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.pixels.device)
        images = self.pixels[chosen if self.rows is None else self.rows[chosen]].float().div_(255)
        if self.channels != images.shape[-3]:
            images = images.expand(*images.shape[:-3], self.channels, -1, -1)
        return _sized(images, self.size), self.labels[chosen]

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole batch; use with ``collate_fn=as_is``."""
        return self[indices]

    def batches(self, size: int = 1000) -> Iterator[Tensor]:
        """Yield all images in order, ``size`` at once, as floats (B, C, H, W) in [0, 1]."""
        for numbers in torch.split(torch.arange(len(self)), size):
            yield self[numbers][0]

    def between(self, start: int, stop: int | None) -> "ImageTensors":
        """Return the images from ``start`` to before ``stop``, or to the end; they share the memory."""
        chosen = slice(start, stop)
        if self.rows is None:
            return self._like(self.pixels[chosen], self.labels[chosen], None)
        return self._like(self.pixels, self.labels[chosen], self.rows[chosen])

    def part(self, numbers: Tensor, labels: Tensor | None = None) -> "ImageTensors":
        """Return some of the images, with their labels or with others; they share the memory."""
        chosen = numbers.to(self.pixels.device)
        labels = self.labels[chosen] if labels is None else labels.to(self.labels.device)
        return self._like(self.pixels, labels, chosen if self.rows is None else self.rows[chosen])

    def to(self, device: torch.device) -> "ImageTensors":
        """Return the same data on ``device``; what is there, or mapped from a file, stays as it is."""
        if self.mapped or self.device == device:
            return self
        return self._like(self.images.to(device), self.labels.to(device), None)


def _sized(images: Tensor, size: int | None) -> Tensor:
    """Return square images (..., C, H, W) in [0, 1] at another size: 28 to 32 framed with black, as MNIST."""
    if size is None:
        return images
    if (images.shape[-1], size) == (28, 32):
        return pad(images, [2] * 4)
    flat = interpolate(images.flatten(end_dim=-4), (size, size), mode="bilinear", antialias=True)
    return flat.clamp_(0, 1).view(*images.shape[:-2], size, size)


def joined(first: ImageTensors, second: ImageTensors) -> ImageTensors:
    """Return the images of both; without a copy where they are some of the same.

    Raises:
        ValueError: They come out at different sizes, or in different numbers of channels.
    """
    if (first.size, first.channels) != (second.size, second.channels):
        raise ValueError(
            f"images of size {second.size} and {second.channels} channels cannot join those of size "
            f"{first.size} and {first.channels} channels"
        )
    labels = torch.cat([first.labels, second.labels])
    options: dict[str, Any] = {"channels": first.channels, "size": first.size, "mapped": first.mapped}
    if first.rows is not None and second.rows is not None and first.pixels is second.pixels:
        return ImageTensors(first.pixels, labels, rows=torch.cat([first.rows, second.rows]), **options)
    return ImageTensors(torch.cat([first.images, second.images]), labels, **options)


def _processes() -> tuple[int, int]:
    """Return this process's rank and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class ShuffledBatches(DistributedSampler[Any]):
    """Yields the indices of one training batch at a time, a new order in each epoch.

    Args:
        length: Number of items.
        batch_size: Items in one training step, over all processes together; each takes its share.
        seed: The order depends on this and the epoch alone, so it is the same on any number of processes.
        stream: Orders of different streams are independent of each other under the same seed.
        num_batches: Batches in an epoch; by default each item at most once, the incomplete last batch
            left out. If larger, fresh permutations follow each other (never the same order twice).
        seeds: The batches of each of these seeds side by side, (S, B), in place of those of ``seed``.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        stream: int = 0,
        num_batches: int | None = None,
        seeds: Sequence[int] = (),
    ) -> None:
        rank, world_size = _processes()
        super().__init__(range(length), num_replicas=world_size, rank=rank, seed=seed)  # type: ignore[arg-type]
        if batch_size % world_size:
            raise ValueError(
                f"batch size {batch_size} cannot be shared by {world_size} processes; "
                f"take a multiple of {world_size}"
            )
        if length < batch_size:
            raise ValueError(
                f"batch size {batch_size} is larger than the {length} training images; "
                f"take batch_size={length} at most"
            )
        self.length, self.batch_size, self.stream, self.seeds = length, batch_size, stream, tuple(seeds)
        self.num_batches = num_batches or length // batch_size
        self.start = 0  # the first batch to yield: not 0 when a run resumes inside an epoch

    def __len__(self) -> int:
        return self.num_batches

    def plan(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """Return the batches that are left of this epoch, this process's part of each, on a device."""
        each = [self._order(seed) for seed in self.seeds or (self.seed,)]
        batches = torch.stack(each, 1) if self.seeds else each[0]
        mine = batches[self.start : self.num_batches, ..., self.rank :: self.num_replicas]
        return mine.to(device).unbind()

    def _order(self, seed: int) -> Tensor:
        # SeedSequence mixes the numbers: neighbouring seeds and epochs give unrelated orders.
        generator = np.random.default_rng([seed, self.epoch, self.stream])
        whole = self.length // self.batch_size  # batches of one order
        orders = [
            generator.permutation(self.length)[: whole * self.batch_size]
            for _ in range(-(-self.num_batches // whole))
        ]
        return torch.from_numpy(np.concatenate(orders)).view(-1, self.batch_size)[: self.num_batches]

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.plan()


class EveryItemOnce(DistributedSampler[Any]):
    """Yields indices batch by batch, in order, so that the processes together see each item once.

    ``DistributedSampler`` pads the shorter shares with repeated items, which are then scored twice.
    Here nothing is padded; each process makes the same number of batches all the same, because DDP's
    collective calls wait for each other.
    """

    def __init__(self, length: int, batch_size: int) -> None:
        rank, world_size = _processes()
        super().__init__(range(length), num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]
        if length < world_size:
            raise ValueError(f"{length} items cannot be shared by {world_size} processes")
        largest_share = -(-length // world_size)
        self.num_batches = min(-(-largest_share // batch_size), length // world_size)
        self.length = length

    def __len__(self) -> int:
        return self.num_batches

    def plan(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """Return this process's batches, on a device."""
        share = torch.arange(self.rank, self.length, self.num_replicas, device=device)
        return share.tensor_split(self.num_batches)

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.plan()


class BatchLoader:
    """Iterates over planned batches and knows its place in the epoch.

    Lightning saves and restores that place in its checkpoints, so that a run interrupted inside an epoch goes
    on with the batches it has not seen. It is no ``DataLoader``, because Lightning rebuilds those for
    prediction and would undo the plan; it makes one where there are workers to run.

    Args:
        dataset: Takes a tensor of indices and returns a batch.
        sampler: Yields the indices of one batch at a time.
        num_workers: Processes that make batches; 0 is right for data in memory.
    """

    def __init__(
        self, dataset: Dataset[Batch], sampler: ShuffledBatches | EveryItemOnce, *, num_workers: int = 0
    ) -> None:
        self.dataset, self.sampler, self.num_workers = dataset, sampler, num_workers
        self.batch_sampler = None  # Lightning asks every loader that has a sampler
        self.batches_done = self.resume_at = 0
        self._loader: DataLoader[Batch] | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        # Lightning asks for an iterator before it sets the sampler's epoch, and drops that iterator
        # where the saved epoch was complete: so take the place now, read the order at the first batch.
        start, self.resume_at = self.resume_at, 0
        return self._batches_from(start)

    def _batches_from(self, start: int) -> Iterator[Batch]:
        self.batches_done = start
        if isinstance(self.sampler, ShuffledBatches):
            self.sampler.start = start
        for batch in self._workers() if self.num_workers else self._at_once():
            self.batches_done += 1
            yield batch

    def _at_once(self) -> Iterator[Batch]:
        # The order goes to the device of the images once in an epoch: each copy makes a GPU wait.
        for indices in self.sampler.plan(getattr(self.dataset, "device", None)):
            yield self.dataset[indices]

    def _workers(self) -> Iterable[Batch]:
        if self._loader is None:
            self._loader = DataLoader(
                self.dataset,
                batch_size=None,
                sampler=self.sampler,
                num_workers=self.num_workers,
                pin_memory=torch.cuda.is_available(),
                persistent_workers=True,
            )
        return self._loader

    def state_dict(self) -> dict[str, int]:
        """Return the place in the epoch; a finished epoch is the start of the next."""
        return {"batches_done": self.batches_done % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration begin where the saved one stopped."""
        self.resume_at = state["batches_done"]


class InMemory(Protocol):
    """A data module whose images live in memory."""

    batch_size: int
    num_workers: int
    trainer: lightning.Trainer | None


def train_loader(data: ImageTensors, module: InMemory, *, seed: int) -> BatchLoader:
    """Return the training batches of a data module, in a new order each epoch.

    The incomplete last batch is left out: a small batch upsets BatchNorm.
    """
    order = ShuffledBatches(len(data), module.batch_size, seed=seed)
    return BatchLoader(on_device(data, module), order, num_workers=module.num_workers)


def eval_loader(data: ImageTensors, module: InMemory) -> BatchLoader:
    """Return batches that score each item of ``data`` exactly once, on one process or many."""
    order = EveryItemOnce(len(data), module.batch_size)
    return BatchLoader(on_device(data, module), order, num_workers=module.num_workers)


def on_device(data: ImageTensors, module: InMemory) -> ImageTensors:
    """Return ``data`` on the device of the module's trainer, if it has one."""
    # Worker processes cannot index a GPU's memory; Lightning moves their batches.
    if module.trainer is None or module.num_workers:
        return data
    return data.to(module.trainer.strategy.root_device)


def describe(name: str, **parts: ImageTensors) -> dict[str, Any]:
    """Return name, counts and sha256 of data, for results.json."""
    digest = hashlib.sha256()
    for part in parts.values():
        places = torch.arange(len(part)) if part.rows is None else part.rows
        for block in torch.split(places.to(part.pixels.device), 1000):
            digest.update(part.pixels[block].cpu().contiguous().numpy().data)
        digest.update(part.labels.cpu().numpy().data)
        if part.size is not None:
            digest.update(f"size {part.size}".encode())
    counts = {part: len(data) for part, data in parts.items()}
    return {"name": name, **counts, "sha256": digest.hexdigest()}
