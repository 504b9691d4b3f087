#!/usr/bin/env bash
# Train several parts of a table beside each other on one GPU, which a single small network leaves idle:
#   beside.sh HOW_MANY TASK TASKS python script.py [flags]
# Task TASK of TASKS trains the parts HOW_MANY * TASK and on, of HOW_MANY * TASKS. A signal reaches all of them.
set -uo pipefail
many=$1 task=$2 tasks=$3
shift 3
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
trap : USR1 TERM # those who train stop by themselves, and this one waits for them
running=() failed=0
for ((number = 0; number < many; number++)); do
  "$@" --part $((many * task + number)) $((many * tasks)) &
  running+=($!)
done
for process in "${running[@]}"; do
  # A trapped signal ends the wait, not the process.
  until wait "$process"; do
    status=$?
    kill -0 "$process" 2>/dev/null || { failed=$status && break; }
  done
done
exit "$failed"
