import torch
from conftest import write_mnist, write_mnist_m

from datamodules.mnist_to_mnist_m import MNISTToMNISTMDataModule


def orders(digits, epoch: int = 0, rank: int = 0, world_size: int = 1) -> dict[str, list[int]]:
    """Return the order in which each domain's items come."""
    loader = digits.train_dataloader()
    found = {}
    for name, part in loader.iterables.items():
        part.sampler.set_epoch(epoch)
        part.sampler.rank, part.sampler.num_replicas = rank, world_size
        found[name] = [int(index) for batch in part.sampler for index in batch]
    return found


def test_a_batch_holds_source_and_target(mnist):
    write_mnist_m(mnist)
    digits = MNISTToMNISTMDataModule(mnist, batch_size=10)
    digits.setup()
    batches = list(digits.train_dataloader())
    for batch, _, _ in batches:
        assert batch["source"][0].shape == batch["target"][0].shape == (10, 3, 28, 28)
    assert len(batches) == 110 // 10  # once over the larger set


def test_orders_are_independent_on_one_process_and_on_two(tmp_path):
    # Equally long sets: with Lightning's own samplers both would get the same permutation.
    write_mnist(tmp_path, train=240)
    digits = MNISTToMNISTMDataModule(tmp_path, batch_size=20)
    digits.setup()
    assert len(digits.source.train_data) == len(digits.target.train_data)
    for world_size in (1, 2):
        for rank in range(world_size):
            for epoch in range(3):
                found = orders(digits, epoch, rank, world_size)
                pairs = list(zip(found["source"], found["target"], strict=True))
                assert sum(a == b for a, b in pairs) <= len(pairs) // 10  # about 1/220 by chance


def test_the_smaller_set_comes_in_a_new_order_each_time(mnist):
    write_mnist_m(mnist, train=24)  # 22 to train on
    digits = MNISTToMNISTMDataModule(mnist, batch_size=11)
    digits.setup()
    target = orders(digits)["target"]
    passes = [tuple(target[n : n + 22]) for n in range(0, 110, 22)]
    assert all(sorted(order) == list(range(22)) for order in passes)
    assert len(set(passes)) == 5


def test_evaluation_has_a_loader_for_each_domain(mnist):
    write_mnist_m(mnist)
    digits = MNISTToMNISTMDataModule(mnist, batch_size=16)
    digits.setup()
    assert [sum(len(labels) for _, labels in loader) for loader in digits.val_dataloader()] == [10, 5]
    assert [sum(len(labels) for _, labels in loader) for loader in digits.test_dataloader()] == [37, 20]
    assert digits.describe()["target"]["name"] == "MNIST-M, common release"


def test_workers_are_handed_down(mnist):
    digits = MNISTToMNISTMDataModule(mnist, num_workers=2)
    assert digits.source.num_workers == digits.target.num_workers == 2


def test_the_same_seed_gives_the_same_batches(mnist):
    write_mnist_m(mnist)
    runs = []
    for seed in (0, 0, 1):
        digits = MNISTToMNISTMDataModule(mnist, batch_size=10, seed=seed)
        digits.setup()
        runs.append(torch.stack([batch["target"][1] for batch, _, _ in digits.train_dataloader()]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
