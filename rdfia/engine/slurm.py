"""What is asked of Slurm."""

import os
import subprocess
import sys

SLURM_JOB = "slurm_job.txt"  # in a run folder: the number of the job that made it


def requeue_job() -> None:
    """Ask Slurm to start this job again, as soon as it has room."""
    task = "SLURM_ARRAY_TASK_ID" in os.environ
    number = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}" if task else "{SLURM_JOB_ID}"
    command = ["scontrol", "requeue", number.format(**os.environ)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", None) or error
        print(f"not requeued, submit the job again: {' '.join(command)}: {why}", file=sys.stderr)
