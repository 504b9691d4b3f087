"""Where nobody watches, a line says how far it is and how long it will take."""

import re

import lightning
import torch
from conftest import quiet_trainer
from torch.utils.data import DataLoader, TensorDataset

from rdfia.common import progress as module
from rdfia.common.progress import line, progress
from rdfia.engine import callbacks
from rdfia.engine.callbacks import EpochLines


def test_a_line_every_half_minute(capsys, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    assert list(progress(range(10), "maps")) == list(range(10))
    said = capsys.readouterr().err.splitlines()
    assert said == [line("maps", done, 10, 10.0 * (done + 1)) for done in (2, 5, 8)]
    assert line("maps", 2, 1000, 30.0) == "maps: 2 of 1,000, 30 s, about 14,970 s left"
    assert line("files", 5, None, 31.0) == "files: 5, 31 s"


def test_what_is_done_at_once_says_nothing(capsys):
    assert list(progress(iter([3, 4]), "maps")) == [3, 4]
    assert capsys.readouterr().err == ""


class Plain(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/score", 0.5)
        self.log("val/information", 1.5)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_after_twenty_steps_the_time_to_expect_then_each_half_minute(capsys, monkeypatch):
    data = DataLoader(TensorDataset(torch.rand(50, 2)), 2)
    lines = EpochLines(("val/score", "val/information"), 2, printed=True)
    monkeypatch.setattr(callbacks, "EVERY", 1e9)
    quiet_trainer(max_epochs=2, callbacks=[lines]).fit(Plain(), data, data)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert re.fullmatch(r"step 20 of 25, epoch 1 of 2: \d+ ms a step, about \d+ s of steps left", said[0])
    for number, text in enumerate(said[1:], 1):
        expected = rf"epoch {number}/2: val/score 0.5, val/information 1.5, \d+ s, \d+ s in all, .*"
        assert re.fullmatch(expected, text)
    monkeypatch.setattr(callbacks, "EVERY", 0.0)
    quiet_trainer(max_epochs=1, callbacks=[EpochLines(("val/score",), 2, printed=True)]).fit(
        Plain(), data, data
    )
    assert len(capsys.readouterr().out.splitlines()) == 25  # not after the first step, which says nothing
