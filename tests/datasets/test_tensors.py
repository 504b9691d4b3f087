import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from datamodules.tensors import (
    BatchLoader,
    EveryItemOnce,
    ImageTensors,
    ShuffledBatches,
    as_is,
    describe,
    joined,
)


def numbered(count: int) -> ImageTensors:
    """Images whose label is their number."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    return ImageTensors(images, torch.arange(count))


def on_rank(sampler, rank: int, world_size: int):
    """Make a sampler as process ``rank`` of ``world_size`` would make it."""
    sampler.rank, sampler.num_replicas = rank, world_size
    return sampler


def seen(sampler) -> list[int]:
    return [int(index) for batch in sampler for index in batch]


def test_a_batch_is_float_in_0_1_with_its_labels():
    images, labels = numbered(256)[[255, 0, 51]]
    assert images.dtype == torch.float32
    assert images.shape == (3, 1, 2, 2)
    assert images[:, 0, 0, 0].tolist() == [1.0, 0.0, pytest.approx(0.2)]
    assert labels.tolist() == [255, 0, 51]


def test_channels_repeat():
    images, _ = ImageTensors(numbered(9).images, numbered(9).labels, channels=3)[torch.tensor([1, 2])]
    assert images.shape == (2, 3, 2, 2)
    assert torch.equal(images[:, 0], images[:, 2])


def test_a_size_stays_with_every_part_and_with_what_is_joined():
    small = torch.randint(0, 256, (6, 3, 28, 28), dtype=torch.uint8)
    data = ImageTensors(small, torch.arange(6), size=64)
    alone, _ = data[[4]]
    assert alone.shape == (1, 3, 64, 64)
    first, second = data.part(torch.tensor([0, 1])), data.part(torch.tensor([4, 5]))
    for both in (joined(first, second), joined(data, ImageTensors(small, torch.arange(6), size=64))):
        assert torch.equal(both[[both.labels.tolist().index(4)]][0], alone)
    stacked, labels = data[torch.tensor([[4, 1], [0, 4]])]  # the batches of two seeds
    assert stacked.shape == (2, 2, 3, 64, 64)
    assert torch.equal(stacked[1, 1], alone[0])
    assert labels.tolist() == [[4, 1], [0, 4]]
    assert torch.equal(
        ImageTensors(small, torch.arange(6), size=32)[[2]][0][..., 2:-2, 2:-2], small[[2]] / 255
    )
    with pytest.raises(ValueError, match="images of size None and 3 channels cannot join those of size 64"):
        joined(data, ImageTensors(small, torch.arange(6)))


def test_data_at_another_size_is_other_data():
    small = torch.randint(0, 256, (6, 3, 28, 28), dtype=torch.uint8)
    hashes = [
        describe("", all=ImageTensors(small, torch.arange(6), size=size))["sha256"] for size in (64, 96)
    ]
    own = [describe("", all=ImageTensors(small, torch.arange(6), size=size))["sha256"] for size in (28, None)]
    assert len({*hashes, *own}) == 3  # their own size named is their own size


@pytest.mark.parametrize("images", [torch.zeros(3, 1, 2, 2), torch.zeros(3, 2, 2, dtype=torch.uint8)])
def test_wrong_tensors_are_refused(images):
    with pytest.raises(ValueError, match="expected uint8 images"):
        ImageTensors(images, torch.zeros(3, dtype=torch.int64))


def test_works_with_a_plain_data_loader():
    loader = DataLoader(numbered(10), batch_size=4, shuffle=True, collate_fn=as_is)
    labels = torch.cat([labels for _, labels in loader])
    assert sorted(labels.tolist()) == list(range(10))


def test_works_with_the_sampler_that_lightning_injects():
    halves = [
        torch.cat(
            [
                labels
                for _, labels in DataLoader(
                    numbered(10),
                    batch_size=2,
                    sampler=DistributedSampler(range(10), num_replicas=2, rank=rank),
                    collate_fn=as_is,
                )
            ]
        )
        for rank in range(2)
    ]
    assert sorted(torch.cat(halves).tolist()) == list(range(10))


def test_training_sees_each_item_at_most_once_an_epoch_in_a_new_order():
    sampler = ShuffledBatches(23, 4, seed=1)
    first = seen(sampler)
    sampler.set_epoch(1)
    second = seen(sampler)
    assert len(first) == len(set(first)) == 20  # the incomplete last batch is left out
    assert len(sampler) == 5
    assert first != second
    sampler.set_epoch(0)
    assert seen(sampler) == first


def test_neighbouring_seeds_and_streams_give_unrelated_orders():
    orders = [
        seen(ShuffledBatches(1000, 10, seed=seed, stream=stream)) for seed in (0, 1) for stream in (0, 1)
    ]
    for number, order in enumerate(orders):
        for other in orders[number + 1 :]:
            agreements = sum(a == b for a, b in zip(order, other, strict=True))
            assert agreements < 10  # about 1 by chance


def test_processes_share_the_batches_of_one_process():
    alone = list(ShuffledBatches(50, 8, seed=3))
    shares = [list(on_rank(ShuffledBatches(50, 8, seed=3), rank, 2)) for rank in range(2)]
    for batch, first, second in zip(alone, *shares, strict=True):
        assert len(first) == len(second) == 4
        assert torch.equal(torch.stack([first, second], 1).flatten(), batch)


def test_a_short_set_is_shuffled_anew_each_time_it_is_used_up():
    batches = list(ShuffledBatches(8, 4, seed=0, num_batches=40))
    passes = [torch.cat(batches[n : n + 2]).tolist() for n in range(0, 40, 2)]
    assert all(sorted(order) == list(range(8)) for order in passes)
    assert len({tuple(order) for order in passes}) == 20


def test_batch_size_must_fit():
    with pytest.raises(ValueError, match="larger than the 7 training images"):
        ShuffledBatches(7, 8)


@pytest.mark.parametrize("length", [1, 2, 5, 12, 13, 16, 17, 257])
@pytest.mark.parametrize("batch_size", [1, 4, 128])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_item_exactly_once_in_equally_many_batches(
    length, batch_size, world_size, monkeypatch
):
    if length < world_size:
        monkeypatch.setattr("datamodules.tensors._processes", lambda: (0, world_size))
        with pytest.raises(ValueError, match=f"{length} items cannot be shared by {world_size} processes"):
            EveryItemOnce(length, batch_size)
        return
    shares = []
    for rank in range(world_size):
        monkeypatch.setattr("datamodules.tensors._processes", lambda rank=rank: (rank, world_size))
        shares.append(list(EveryItemOnce(length, batch_size)))
    assert sorted(int(index) for share in shares for batch in share for index in batch) == list(range(length))
    # DDP's collective calls wait for each other: as many batches on each process, none of them empty
    assert len({len(share) for share in shares}) == 1
    assert all(len(batch) for share in shares for batch in share)


def test_loader_resumes_inside_an_epoch_and_starts_the_next_one_whole():
    loader = BatchLoader(numbered(20), ShuffledBatches(20, 4))
    whole = [labels.tolist() for _, labels in loader]
    iterator = iter(loader)
    next(iterator), next(iterator)
    state = loader.state_dict()
    resumed = BatchLoader(numbered(20), ShuffledBatches(20, 4))
    resumed.load_state_dict(state)
    assert [labels.tolist() for _, labels in resumed] == whole[2:]
    assert [labels.tolist() for _, labels in resumed] == whole
    assert resumed.state_dict() == {"batches_done": 0}


class Recorder(lightning.LightningModule):
    """Remembers which items each epoch showed."""

    def __init__(self, stop_after: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.items: list[list[int]] = []
        self.stop_after = stop_after
        self.count = 0

    def training_step(self, batch, batch_idx):
        self.items.append(batch[1].tolist())
        self.count += 1
        return self.weight * 0

    def on_train_batch_end(self, *args):
        if self.count == self.stop_after:
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/stop.ckpt")
            raise RuntimeError("stopped")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(
    ("stop_after", "limit", "num_workers"),
    [(3, None, 0), (5, None, 0), (8, None, 0), (10, None, 0), (2, 3, 0), (4, 3, 0), (8, None, 1)],
)
def test_lightning_resumes_with_the_batches_not_yet_seen(tmp_path, stop_after, limit, num_workers):
    def train(module, checkpoint=None):
        trainer = lightning.Trainer(
            max_epochs=4,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_train_batches=limit or 1.0,
            default_root_dir=str(tmp_path),
        )
        loader = BatchLoader(numbered(20), ShuffledBatches(20, 4), num_workers=num_workers)
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
        return module.items

    whole = train(Recorder())
    with pytest.raises(RuntimeError, match="stopped"):
        train(Recorder(stop_after))
    assert train(Recorder(), tmp_path / "stop.ckpt") == whole[stop_after:]
    assert len(np.unique([tuple(items) for items in whole], axis=0)) == len(whole)
