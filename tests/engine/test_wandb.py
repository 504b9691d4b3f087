"""Weights & Biases beside a run: on and off line, and gone in the middle of it."""

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from lightning.pytorch.loggers import WandbLogger
from tiny import Tiny, arguments, rows, train
from wandb_files import wandb_records

from rdfia.common import environment
from rdfia.engine import runs, wandb_run


def test_wandb_is_offline_without_a_login_and_keeps_its_run(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    args = arguments(tmp_path, wandb=True, max_epochs=1)
    ids = []
    for epochs in (1, 2):
        trainer, folder, _ = train(arguments(tmp_path, wandb=True, max_epochs=epochs), Tiny())
        logger = next(logger for logger in trainer.loggers if isinstance(logger, WandbLogger))
        ids.append(logger.experiment.id)
        wandb_run.finish_last()
    assert ids[0] == ids[1] == (folder / "wandb_id.txt").read_text()
    assert (
        f"W&B was offline; upload it with: wandb sync {folder}/wandb/offline-run-*" in capsys.readouterr().out
    )
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 2
    assert args.wandb


def test_a_run_of_a_sweep_has_the_id_of_the_sweep(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "abcd1234")
    trainer, folder, _ = train(arguments(tmp_path, wandb=True, max_epochs=1), Tiny())
    (logger,) = wandb_run.wandb_loggers(trainer)
    assert logger.experiment.id == "abcd1234" == (folder / "wandb_id.txt").read_text()
    wandb_run.finish_last()
    monkeypatch.delenv("WANDB_SWEEP_ID")
    monkeypatch.delenv("WANDB_RUN_ID")
    trainer, _, _ = train(arguments(tmp_path, wandb=True, max_epochs=2), Tiny())  # goes on without its agent
    (logger,) = wandb_run.wandb_loggers(trainer)
    assert logger.experiment.id == "abcd1234"
    wandb_run.finish_last()


def test_a_proxy_is_asked_where_there_is_one(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("NO_PROXY", "no_proxy", "HTTPS_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert wandb_run._answers("https://wandb.invalid")
        monkeypatch.setenv("no_proxy", "wandb.invalid")
        assert not wandb_run._answers("https://wandb.invalid")


def test_wandb_that_cannot_start_does_not_stop_training(tmp_path, monkeypatch):
    monkeypatch.setattr("wandb.init", lambda **kwargs: 1 / 0)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.warns(UserWarning, match="training without Weights & Biases"):
        _, folder, _ = train(arguments(tmp_path, wandb=True, max_epochs=1), Tiny())
    assert rows(folder)


@pytest.mark.parametrize("key", ["short", "0" * 40])
def test_wandb_with_a_login_but_no_network_goes_offline(tmp_path, monkeypatch, key):
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "wandb_id.txt").write_bytes(b"\xff\x00")  # damaged: made again
    _, folder, _ = train(arguments(tmp_path, wandb=True, max_epochs=1), Tiny())
    wandb_run.finish_last()
    assert rows(folder)
    assert list((folder / "wandb").glob("offline-run-*"))
    assert (folder / "wandb_id.txt").read_text().isalnum()


def test_wandb_knows_flags_commit_and_versions(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    trainer, folder, _ = train(arguments(tmp_path, wandb=True, max_epochs=1, batch_size=4), Tiny())
    logger = next(logger for logger in trainer.loggers if isinstance(logger, WandbLogger))
    config, summary = logger.experiment.config, logger.experiment.summary
    words = {"technique": "tiny", "selection": "none"}
    runs.write_results(
        folder, trainer, seeds=[0], data={}, metrics={"score": [1.0]}, wall_seconds=1.0, notes=[], **words
    )
    assert summary["score"] == 1.0
    wandb_run.finish_last()
    assert config["batch_size"] == 4
    assert config["commit"] == environment.git_commit()
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]


class Server(BaseHTTPRequestHandler):
    """As much of W&B's server as a run asks for."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        asked = json.loads(body) if self.path == "/graphql" else {}
        query = asked.get("query", "")
        if "upsertBucket" in query:
            project = {"id": "p", "name": "rdfia", "entity": {"id": "e", "name": "me"}}
            names = {"id": "b", "name": asked["variables"]["name"], "displayName": "run"}
            bucket = {**names, "config": "{}", "project": project}
            self.server.began.set()
            self.answer({"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}})
        elif "viewer" in query:
            viewer = {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
            self.answer({"data": {"viewer": viewer}})
        elif "createRunFiles" in query:
            self.answer({"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}})
        else:
            self.answer({"data": {}, "exitcode": None, "limits": {}})

    do_PUT = do_POST  # noqa: N815 - as http.server asks for it

    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *message):
        pass


def start(tmp_path: Path, **surroundings: str) -> subprocess.Popen:
    flags = ["--data-dir", tmp_path / "data", "--output-dir", tmp_path / "runs", "--accelerator", "cpu"]
    flags += ["--wandb", "--max-epochs", 12, "--batch-size", 16]
    flags += ["--generator-features", 4, "--discriminator-features", 4]
    return subprocess.Popen(
        [sys.executable, "scripts/train_gan.py", *map(str, flags)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        | {"HOME": str(tmp_path), **surroundings},
        stdout=subprocess.PIPE,
        text=True,
    )


def until(process: subprocess.Popen, holds: Callable[[], bool]) -> None:
    """Wait for the end of an epoch, not the last, in which something holds."""
    for line in process.stdout:
        if line.startswith("epoch") and holds():
            break
    assert line.startswith("epoch"), line
    assert not line.startswith("epoch 12/12"), line


def check_complete(process: subprocess.Popen, folder: Path) -> str:
    """Check that a run has ended well; return what it printed last."""
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert "epoch 12/12" in printed
    assert json.loads((folder / "results.json").read_text())["metrics"]["judge_fid"]["mean"] > 0
    return printed


@pytest.mark.slow
def test_a_network_that_dies_amid_a_run_costs_the_upload_alone(tmp_path, mnist):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.began = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    process = start(
        tmp_path,
        WANDB_BASE_URL=f"http://127.0.0.1:{server.server_port}",
        WANDB_API_KEY="0" * 40,
        WANDB_FINISH_TIMEOUT="5",
    )
    until(process, server.began.is_set)
    server.shutdown()
    server.server_close()
    folder = tmp_path / "runs" / "gan"
    printed = check_complete(process, folder)
    (command,) = re.findall(r"; upload it with: (wandb sync .*)", printed)
    command = f"{Path(sys.executable).parent}/{command.replace('sync', 'sync --dry-run')}"
    asked = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "Would sync 1 run" in asked.stdout + asked.stderr
    settings, logged = wandb_records(folder)
    assert settings["batch_size"] == 16
    assert logged >= 12


@pytest.mark.slow
def test_a_service_that_dies_amid_a_run_does_not_end_it(tmp_path, mnist):
    process = start(tmp_path, WANDB_MODE="offline")
    until(process, lambda: True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (service,) = (pid for pid in children if "wandb-core" in Path(f"/proc/{pid}/cmdline").read_text())
    for number in (signal.SIGTERM, signal.SIGUSR1):  # which all processes of a Slurm job get, to no effect
        os.kill(int(service), number)
    until(process, lambda: True)
    assert Path(f"/proc/{service}").exists()
    os.kill(int(service), signal.SIGKILL)
    check_complete(process, tmp_path / "runs" / "gan")
