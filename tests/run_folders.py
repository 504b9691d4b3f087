"""Run folders as runs leave them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def metric(*values: float | None) -> dict:
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if known else None
    return {"mean": mean, "std": 0.5 if len(known) > 1 else None, "values": list(values)}


def write_run(folder: Path, name: str, metrics: dict, **more: object) -> dict:
    results = {
        "name": name,
        "technique": "gan",
        "command": f"python scripts/train_gan.py --name {name}",
        "commit": "0123456789ab",
        "device": "CPU, 2 threads",
        "precision": "32-true",
        "wall_seconds": 1234.5,
        "peak_memory_gb": 1.5,
        "seeds": [0],
        "data": {"name": "MNIST", "train": 60000, "test": 10000},
        "metrics": metrics,
        "selection": "last epoch",
        "notes": ["1 < 2"],
        **more,
    }
    (folder / name / "figures").mkdir(parents=True)
    (folder / name / "results.json").write_text(json.dumps(results))
    return results


def write_picture(path: Path, width: int = 3000) -> None:
    Image.fromarray(np.zeros((40, width, 3), np.uint8)).save(path)
