"""The ten minutes on a GPU, tried with a CPU in its place."""

import json

import gpu_check
import pytest
from gpu import parts
from gpu_check import LIMITS, Args, main


def test_the_parts_take_ten_minutes_in_all():
    assert sum(LIMITS.values()) <= 600
    assert all(callable(getattr(parts, name)) for name in LIMITS)


@pytest.mark.slow
def test_what_ran_is_kept_and_what_failed_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(LIMITS, "stacked", 0.01)
    args = Args(device="cpu", output=tmp_path, only=("machine", "stacked"))
    with pytest.raises(ValueError, match=r"stacked: see .*check\.json"):
        main(args)
    check = json.loads((tmp_path / "check.json").read_text())
    assert check["machine"]["name"] == "CPU"
    assert check["stacked"]["error"] == "not done within 0.01 s"
    assert "machine: ok" in capsys.readouterr().out


def test_a_machine_without_a_gpu_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(parts.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"torch|driver"):
        parts.machine("cuda", tmp_path, tmp_path)
    assert gpu_check.tail("a\nb\nc\nd") == "b | c | d"


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("processes", "scores")),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("steps", "resume")),
    ],
)
def test_a_part_runs_on_a_cpu(name, tmp_path, monkeypatch):
    monkeypatch.setitem(LIMITS, name, 400)
    found = main(Args(device="cpu", output=tmp_path, only=(name,)))[name]
    expected = {
        "steps": lambda: found["dann, usual"]["ms_a_step"] > 0,
        "resume": lambda: found["equal"] and found["interrupted"],
        "processes": lambda: found["2 under gloo"] == "equal to one process",
        "scores": lambda: found["relative_difference"] < 1e-3,
    }
    assert expected[name]()
