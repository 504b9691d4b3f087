#!/usr/bin/env bash
# Check a training here, in seconds, and only then put it into the queue. From the root of the checkout:
#   scripts/slurm/submit.sh [options of sbatch] scripts/train_....py [flags]
# With --array=0-N the parts of a table are trained beside each other, and joined by one more job; with
# --per-gpu=8 each of these jobs trains eight parts, which share its GPU.
set -euo pipefail
slurm=$(dirname "$0")
python=${PYTHON:-.venv/bin/python}

refuse() {
  echo "error: $1" >&2
  exit 2
}

[[ -x $(command -v "$python") ]] || refuse "no $python; make .venv, or export PYTHON= the one with rdfia"
options=() array=() nodes=1 tasks=1 gpus= kind= each=1
while [[ $# -gt 0 && $1 != *.py ]]; do
  case $1 in
    --nodes | --ntasks-per-node | --gpus-per-node | --gres | --array | --per-gpu) # the value is the next word
      [[ $# -gt 1 ]] || refuse "$1 without a value"
      set -- "$1=$2" "${@:3}"
      ;;
  esac
  case $1 in
    -N* | -a* | -n* | --ntasks | --ntasks=*) refuse "$1: say --nodes=, --ntasks-per-node= and --array= in full" ;;
    --gpus-per-task=1) options+=("$1") ;;
    --gpus-per-task*) refuse "$1: each process takes one GPU; say --gpus-per-task=1" ;;
    --per-gpu=*) each=${1#*=} ;;
    --gres=gpu | --gres=gpu:*[!0-9]) gpus=1 kind=--gres=gpu: options+=("$1") ;;
    --gres=gpu:*) gpus=${1##*:} kind=--gres=gpu: options+=("$1") ;;
    --nodes=*) nodes=${1#*=} options+=("$1") ;;
    --ntasks-per-node=*) tasks=${1#*=} options+=("$1") ;;
    --gpus-per-node=*) kind=--gpus-per-node= gpus=${1##*[=:]} options+=("$1") ;;
    --array=*) array=("$1") ;;
    *) options+=("$1") ;;
  esac
  shift
done
[[ $# -gt 0 ]] || refuse "no trainer script; say scripts/slurm/submit.sh [options] scripts/train_gan.py"
[[ $nodes =~ ^[0-9]+$ && $tasks =~ ^[0-9]+$ ]] || refuse "--nodes and --ntasks-per-node are one number each"
[[ -z $gpus || $gpus == "$tasks" ]] ||
  refuse "$kind$gpus for $tasks processes, each of which takes one; say --ntasks-per-node=$gpus"
[[ $each =~ ^[1-9][0-9]*$ ]] || refuse "--per-gpu=$each: how many parts share a GPU, such as 8"
[[ $each == 1 || ${#array[@]} -gt 0 ]] || refuse "--per-gpu=$each shares a GPU between parts of a table; add --array=0-N"
export RDFIA_PER_GPU=$each
template=$slurm/train.sbatch part=()
if [[ ${#array[@]} -gt 0 ]]; then
  [[ ${array[0]} =~ ^--array=0-[0-9]+(%[0-9]+)?$ ]] || refuse "${array[0]}: the parts of a table are --array=0-N, or 0-N%M"
  template=$slurm/sweep.sbatch part=(--part 0 1)
fi
# The script looks at flags, data and run folder as it will in the job.
SLURM_NTASKS=$((nodes * tasks)) SLURM_NNODES=$nodes SLURM_NTASKS_PER_NODE=$tasks SLURM_STEP_ID=0 \
  "$python" "$@" "${part[@]}" --check
# Slurm looks at partition, nodes and limits without queueing anything.
sbatch --test-only "${options[@]}" "${array[@]}" "$template" "$@"
job=$(sbatch --parsable "${options[@]}" "${array[@]}" "$template" "$@")
job=${job%%;*} # without the cluster's name
echo "job $job"
if [[ ${#array[@]} -gt 0 ]]; then
  after=(--dependency="afterok:$job" --kill-on-invalid-dep=yes)
  join=$(sbatch --parsable "${options[@]}" "${after[@]}" "$slurm/train.sbatch" "$@")
  echo "job ${join%%;*} joins the table"
fi
