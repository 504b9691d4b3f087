"""What a run computes on: GPUs that are there or only promised, processes however they were started."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from tiny import Tiny, arguments, train

from rdfia.common.exact import allow_tf32, exact
from rdfia.engine import devices, training
from rdfia.engine.args import TrainerArgs
from rdfia.engine.callbacks import RandomState
from rdfia.engine.profile import TimeTable

SLURM = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_ID": "0"}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "LOCAL_WORLD_SIZE": "4",
    "WORLD_SIZE": "8",
    "RANK": "5",
    "LOCAL_RANK": "1",
}


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that lets torch see some GPUs of an architecture."""

    def see(count, capability=(9, 0), built=("sm_80", "sm_90")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *one: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *one: "a GPU")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(built))

    return see


def test_one_process_is_the_default_however_many_gpus_there_are(tmp_path, gpus):
    gpus(8)
    assert devices.processes(TrainerArgs()) == (1, 1)
    assert devices.processes(TrainerArgs(devices=8)) == (8, 1)
    with pytest.raises(ValueError, match=r"--batch-size 64 cannot be shared by 7 processes; take a multiple"):
        devices.check_devices(TrainerArgs(devices=7, batch_size=64))


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SLURM_JOB_GPUS", "0,1"), ("SLURM_GPUS_ON_NODE", "2"), ("CUDA_VISIBLE_DEVICES", "GPU-1234")],
)
def test_a_job_with_gpus_does_not_train_on_the_cpu(tmp_path, monkeypatch, gpus, variable, value):
    gpus(0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    old = "The NVIDIA driver on your system is too old (found version 12020).\nPlease update"
    monkeypatch.setattr(torch.cuda, "init", lambda: (_ for _ in ()).throw(RuntimeError(old)))
    monkeypatch.setenv(variable, value)
    said = (
        rf"this job has GPUs \({variable}={value}\), but torch finds none: .*too old \(found version 12020\)"
    )
    with pytest.raises(ValueError, match=said + ".*wheel that fits the driver.*--accelerator cpu"):
        training.open_run(arguments(tmp_path, accelerator="auto"), Tiny(), {})
    assert not (tmp_path / "runs").exists()
    devices.check_gpu(TrainerArgs(accelerator="cpu"))
    devices.check_devices(TrainerArgs(check=True))  # on a login node


@pytest.mark.parametrize(("variable", "value"), [("CUDA_VISIBLE_DEVICES", ""), ("SLURM_GPUS_ON_NODE", "0")])
def test_a_job_without_gpus_trains_on_the_cpu(monkeypatch, gpus, variable, value):
    gpus(0)
    monkeypatch.setenv(variable, value)
    devices.check_gpu(TrainerArgs())
    assert devices.accelerator_of(TrainerArgs()) == "cpu"
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ValueError, match=r"no GPU was found: torch .* is built for CPUs; take the wheel"):
        devices.check_gpu(TrainerArgs(accelerator="gpu"))


@pytest.mark.parametrize(
    ("capability", "more", "fits"),
    [
        ((8, 6), (), True),
        ((9, 0), (), True),
        ((7, 0), (), False),
        ((10, 0), (), False),
        ((10, 0), ("compute_90",), True),
        ((10, 0), ("sm_100a",), True),
        ((7, 0), ("gfx942",), False),
    ],
)
def test_a_gpu_that_the_wheel_was_not_built_for_is_named(gpus, capability, more, fits):
    gpus(1, capability, ("sm_80", "sm_90", *more))
    if fits:
        devices.check_gpu(TrainerArgs())
        return
    has = ".".join(map(str, capability))
    with pytest.raises(
        ValueError, match=rf"built for compute capability 8.0, 9.0, and a GPU has {has}; take"
    ):
        devices.check_gpu(TrainerArgs())


def test_processes_of_torchrun_are_those_it_started(monkeypatch):
    for name, value in (SLURM | TORCHRUN).items():  # srun torchrun
        monkeypatch.setenv(name, value)
    environment, each, nodes = devices.cluster(TrainerArgs(accelerator="cpu"))
    assert [type(one).__name__ for one in environment] == ["TorchElasticEnvironment"]
    assert (each, nodes) == (4, 2)
    assert environment[0].global_rank() == 5
    with pytest.raises(ValueError, match="torchrun started 4 processes on each of 2 nodes; leave --devices"):
        devices.processes(TrainerArgs(devices=2))


def test_tasks_that_see_a_gpu_each_are_nodes_to_lightning(monkeypatch, gpus):
    for name, value in (SLURM | {"SLURM_PROCID": "3", "SLURM_LOCALID": "1"}).items():
        monkeypatch.setenv(name, value)
    gpus(1)  # sbatch --gpus-per-task=1
    devices.check_devices(TrainerArgs())
    (environment,), each, nodes = devices.cluster(TrainerArgs())
    assert (each, nodes) == (1, 4)
    found = environment.local_rank(), environment.node_rank(), environment.global_rank()
    assert found == (0, 3, 3)
    environment.validate_settings(1, 4)
    gpus(2)  # sbatch --gpus-per-node=2
    (environment,), each, nodes = devices.cluster(TrainerArgs())
    assert (environment.local_rank(), each, nodes) == (1, 2, 2)


@pytest.mark.parametrize("name", ["zsh", "code", "jupyter-lab", "sys/dashboard"])
def test_any_shell_in_a_job_may_start_processes(monkeypatch, name):
    alone = {"SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_JOB_NAME": name, "SLURM_STEP_ID": "0"}
    for variable, value in alone.items():
        monkeypatch.setenv(variable, value)
    assert devices.processes(TrainerArgs()) == (1, 1)
    (environment,), each, nodes = devices.cluster(TrainerArgs(devices=4, accelerator="cpu"))
    assert (type(environment).__name__, each, nodes) == ("LightningEnvironment", 4, 1)


def test_the_device_is_said_once(monkeypatch, gpus, capsys):
    gpus(4)
    devices._say.cache_clear()
    for _ in range(2):
        devices.say_device("1 x NVIDIA H100", "bf16-mixed", "cuda", 1)
    line = "on 1 x NVIDIA H100 (4 are there; --devices 4 takes all), precision bf16-mixed\n"
    assert capsys.readouterr().out == line


def test_a_run_on_the_cpu_leaves_gpus_alone(tmp_path, monkeypatch, gpus):
    gpus(1)
    for name in ("get_rng_state", "set_rng_state", "synchronize", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda *given: pytest.fail("a GPU was asked"))
    trainer, folder, _ = train(arguments(tmp_path, accelerator="cpu", max_epochs=1), Tiny())
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert set(state["callbacks"]["RandomState"]) == {"cpu"}
    profiler = TimeTable()
    profiler.start("training_step")
    profiler.stop("training_step")
    # One that was begun on a GPU goes on here.
    callback = RandomState()
    callback.load_state_dict({"cpu": torch.get_rng_state(), "gpu": torch.zeros(16, dtype=torch.uint8)})
    callback.setup(trainer, Tiny(), "fit")
    callback.on_train_start(trainer, Tiny())


def test_float32_is_exact_within_and_as_it_was_outside(tmp_path):
    allow_tf32(True)
    with exact():
        assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.allow_tf32
    training.make_trainer(arguments(tmp_path), tmp_path, monitor="x", mode="min", callbacks=[])
    assert not torch.backends.cudnn.allow_tf32
    args = arguments(tmp_path, tf32=True, deterministic=True)
    try:
        training.make_trainer(args, tmp_path, monitor="x", mode="min", callbacks=[])
        assert torch.backends.cudnn.allow_tf32
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        allow_tf32(False)
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "said",
    [
        "torch.set_float32_matmul_precision('high')",
        "torch.set_float32_matmul_precision('medium')",
        "torch.backends.fp32_precision = 'tf32'",
        "torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = 'tf32'",
        "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
        "pass",
    ],
)
def test_whatever_a_user_said_of_tf32_stays(said):
    code = f"""
import torch
from rdfia.common.exact import _before, allow_tf32, exact
{said}
before = _before()
with exact():
    assert _before() in ((False, "highest"), ("ieee", "ieee")), _before()
assert _before() == before
if isinstance(before[0], bool):
    assert torch.get_float32_matmul_precision() == before[1]
torch.ones(2, 2) @ torch.ones(2, 2)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_torchrun_trains_as_one_process_does(tmp_path):
    flags = ["--data-dir", "sample", "--accelerator", "cpu", "--precision", "float32", "--max-epochs", "1"]
    flags += ["--batch-size", "512", "--output-dir", tmp_path, "--compare", "--name", "together"]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*map(str, (*run, ROOT / "scripts" / "train_dann.py", *flags))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("on 2 processes of CPU") == 1
    assert (tmp_path / "together" / "results.json").exists()
