#!/usr/bin/env bash
# Trains on a Slurm cluster:
#     [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=12] [PORT=...] [SRUN_ARGS=...] \
#         tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
# GPUS_PER_NODE=0 trains on CPUs, with GPUS processes. PORT: where they meet, by default one that depends on the job.
#
# BATCH=1 submits a job that goes on by itself until the training is over: SIGNAL_SECONDS (120) before the time limit
#     (SBATCH_ARGS=--time=...), and when it is preempted, it stops with a checkpoint, is queued again and resumes from
#     it. Its output goes to WORK_DIR/slurm-JOB.out.
# Without BATCH a stopped training (a signal, --stop-after) ends with status 75: run the same command with --resume.
set -euo pipefail
if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
work_dir=$4
shift 4
tools=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH=$tools/..${PYTHONPATH:+:$PYTHONPATH}
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
if [ "$per_node" -gt "$gpus" ]; then per_node=$gpus; fi
layout=(--ntasks="$gpus")
if [ "$per_node" -gt 0 ]; then layout+=(--gres="gpu:$per_node" --ntasks-per-node="$per_node"); fi
layout+=(--cpus-per-task="${CPUS_PER_TASK:-12}")
train=("${PYTHON:-python}" -u "$tools/train.py" "$config" --work-dir "$work_dir" --launcher slurm "$@")

if [ "${BATCH:-0}" = 0 ]; then
    # SRUN_ARGS holds several arguments
    # shellcheck disable=SC2086
    exec srun --partition="$partition" --job-name="$job_name" "${layout[@]}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        "${train[@]}"
fi

case " $* " in *" --resume"*) ;; *) train+=(--resume) ;; esac
mkdir -p "$work_dir"
job=$(mktemp)
cat > "$job" <<JOB
#!/usr/bin/env bash
# Slurm signals the steps; this shell has to outlive them to ask for the next turn
trap '' TERM USR1
export MMVISIONLLAMA_STOPPED=$(printf '%q' "$work_dir/.stopped")
rm -f "\$MMVISIONLLAMA_STOPPED"
export SRUN_CPUS_PER_TASK=${CPUS_PER_TASK:-12} # Slurm >= 22.05 does not hand on what sbatch was given
(trap - TERM USR1; exec srun --kill-on-bad-exit=1 ${SRUN_ARGS:-} $(printf '%q ' "${train[@]}"))
status=\$?
if [ -e "\$MMVISIONLLAMA_STOPPED" ]; then
    rm -f "\$MMVISIONLLAMA_STOPPED"
    scontrol requeue "\$SLURM_JOB_ID"
    sleep 60 # until Slurm ends this turn
fi
exit "\$status"
JOB
# shellcheck disable=SC2086
sbatch --partition="$partition" --job-name="$job_name" "${layout[@]}" --requeue --open-mode=append \
    --signal="USR1@${SIGNAL_SECONDS:-120}" --output="$work_dir/slurm-%j.out" ${SBATCH_ARGS:-} "$job"
rm -f "$job"
