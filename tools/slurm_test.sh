#!/usr/bin/env bash
# Evaluates on a Slurm cluster:
#     [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=12] [PORT=...] [SRUN_ARGS=...] \
#         tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
# GPUS_PER_NODE=0 evaluates on CPUs, with GPUS processes. PORT: where they meet, by default one that depends on the job.
set -euo pipefail
if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
checkpoint=$4
shift 4
tools=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH=$tools/..${PYTHONPATH:+:$PYTHONPATH}
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
if [ "$per_node" -gt "$gpus" ]; then per_node=$gpus; fi
layout=(--ntasks="$gpus")
if [ "$per_node" -gt 0 ]; then layout+=(--gres="gpu:$per_node" --ntasks-per-node="$per_node"); fi

# SRUN_ARGS holds several arguments
# shellcheck disable=SC2086
exec srun --partition="$partition" --job-name="$job_name" "${layout[@]}" \
    --cpus-per-task="${CPUS_PER_TASK:-12}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$tools/test.py" "$config" "$checkpoint" --launcher slurm "$@"
