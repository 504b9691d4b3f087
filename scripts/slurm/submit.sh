#!/usr/bin/env bash
# Check a training here, in seconds, and only then put it into the queue. From the root of the checkout:
#   scripts/slurm/submit.sh [options of sbatch] scripts/train_....py [flags]
# With --array=0-N the parts of a table are trained beside each other, and joined by one more job.
set -euo pipefail
slurm=$(dirname "$0")
options=() nodes=1 tasks=1 array=
while [[ $# -gt 0 && $1 != *.py ]]; do
  case $1 in
    -N | --nodes | --ntasks-per-node | -a | --array)
      [[ $# -gt 1 ]] || { echo "error: $1 without a value" >&2; exit 2; }
      set -- "$1=$2" "${@:3}" ;;
  esac
  case $1 in
    -N=* | --nodes=*) nodes=${1#*=} options+=("--nodes=$nodes") ;;
    --ntasks-per-node=*) tasks=${1#*=} options+=("$1") ;;
    -a=* | --array=*) array="--array=${1#*=}" ;;
    *) options+=("$1") ;;
  esac
  shift
done
[[ $# -gt 0 ]] || { echo "error: no trainer script; say scripts/slurm/submit.sh [options] scripts/train_gan.py" >&2; exit 2; }
# The script looks at flags, data and run folder as it will in the job.
SLURM_NTASKS=$((nodes * tasks)) SLURM_NNODES=$nodes SLURM_NTASKS_PER_NODE=$tasks SLURM_STEP_ID=0 \
  "${PYTHON:-.venv/bin/python}" "$@" --check
template="$slurm/train.sbatch"
[[ -z $array ]] || template="$slurm/sweep.sbatch"
# Slurm looks at partition, nodes and limits without queueing anything.
sbatch --test-only "${options[@]}" $array "$template" "$@"
job=$(sbatch --parsable "${options[@]}" $array "$template" "$@")
echo "job $job"
if [[ -n $array ]]; then
  join=$(sbatch --parsable "${options[@]}" --dependency="afterok:$job" "$slurm/train.sbatch" "$@")
  echo "job $join joins the table"
fi
