"""What a run tells of its training, while it lasts."""

import re
import time

import pytest
from tiny import Tiny, arguments, rows, train

from rdfia.engine import runs


def test_what_died_before_its_first_checkpoint_leaves_no_history(tmp_path):
    class Dies(Tiny):
        def validation_step(self, batch, batch_idx):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(arguments(tmp_path), Dies())
    assert len(rows(tmp_path / "runs" / "run")) == 5
    _, folder, _ = train(arguments(tmp_path, max_epochs=1, batch_size=64), Tiny())
    assert [row["step"] for row in rows(folder)] == ["0", "1", "2", "3", "4", "4"]


def test_the_history_is_not_written_anew_after_each_row(tmp_path, monkeypatch):
    history, written = runs.MetricsCSV(tmp_path), []
    write = history.write
    monkeypatch.setattr(history, "write", lambda: (written.append(len(history.rows)), write()))
    for step in range(2000):
        history.log_metrics({"train/loss": 0.5}, step)
        history.save()  # as Lightning does
    history.finalize("success")
    assert written[0] == 1  # who watches a run sees that it began
    assert len(written) < 20
    assert len(rows(tmp_path)) == 2000
    again, count = runs.MetricsCSV(tmp_path), len(written)  # killed, it trains those batches again
    write_again = again.write
    monkeypatch.setattr(again, "write", lambda: (written.append(len(again.rows)), write_again()))
    for step in range(2000):
        again.log_metrics({"train/loss": 0.5}, step)
        again.save()
    assert len(written) - count < 20


def test_the_end_of_an_epoch_adds_to_the_row_of_its_last_batch_at_once(tmp_path):
    history = runs.MetricsCSV(tmp_path)
    for row in ({"train/batch_loss": 0.5}, {"val/loss": 2.0}, {"train/loss": 1.0}):
        history.log_metrics(row, 3)
        history.save()
    found = [{name: value for name, value in row.items() if value} for row in rows(tmp_path)]
    assert found == [
        {"step": "3", "train/batch_loss": "0.5", "train/loss": "1.0"},
        {"step": "3", "val/loss": "2.0"},
    ]


def test_the_profile_counts_each_moment_once(tmp_path, capsys):
    class Slow(Tiny):
        def training_step(self, batch, batch_idx):
            time.sleep(0.02)
            return super().training_step(batch, batch_idx)

        def on_after_backward(self):
            time.sleep(0.01)

    started = time.perf_counter()
    train(arguments(tmp_path, max_epochs=2, profile=True), Slow())
    whole = time.perf_counter() - started
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.endswith("%")]
    seconds = {" ".join(words[:-2]): float(words[-2]) for words in lines}
    assert seconds["forward and losses"] >= 10 * 0.02
    assert {"data", "backward", "optimizer", "validation", "loop and logging"} <= seconds.keys()
    assert sum(seconds.values()) <= whole + 0.1


def test_a_line_an_epoch_tells_the_pace(tmp_path, capsys):
    train(arguments(tmp_path, batch_size=4), Tiny())
    (last,) = re.findall(
        r"epoch 3/3: val/score 2, \d+ s, \d+ s in all, ([\d,]+) images/s, [\d.]+ GiB", capsys.readouterr().out
    )
    assert int(last.replace(",", "")) > 0
