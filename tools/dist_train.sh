#!/usr/bin/env bash
# Trains on several GPUs of a machine, or without a GPU in several processes:
#     tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# Several machines: run it on each with NNODES, NODE_RANK (0 ... NNODES-1), and the first one's MASTER_ADDR and PORT.
#
# MAX_RESTARTS=3: if a process dies, all are started again, up to three times, and go on from the newest checkpoint of
#     --work-dir (implies --resume). NNODES may then be a range, 2:4, and the machines may come and go; they meet at
#     RDZV_ENDPOINT=HOST:PORT (by default MASTER_ADDR:PORT) under the name RDZV_ID, one per training.
# SIGTERM and SIGUSR1 to this script, or --stop-after, stop the training with a checkpoint, and this script with status
#     75: run it again with --resume. torchrun gives the processes 30 seconds for it.
set -umo pipefail # m: Ctrl-C reaches this script alone, which passes it on
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG PROCESSES [options of tools/train.py]" >&2
    exit 2
fi
config=$1
processes=$2
shift 2
tools=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH=$tools/..${PYTHONPATH:+:$PYTHONPATH}
. "$tools/setup/check_processes.sh"

address=${MASTER_ADDR:-127.0.0.1}
port=${PORT:-29500}
restarts=${MAX_RESTARTS:-0}
resume=()
nodes=${NNODES:-1}
endpoint=
if [ "$restarts" != 0 ] || [[ $nodes == *:* ]]; then endpoint=${RDZV_ENDPOINT:-}; fi
check_processes "$processes" "$port" "$config" "$endpoint"
if [ "$restarts" -gt 0 ] || [[ $nodes == *:* ]]; then
    where=(--max-restarts="$restarts" --rdzv-backend=c10d --rdzv-endpoint="${endpoint:-$address:$port}"
        --rdzv-id="${RDZV_ID:-mmvisionllama}")
    case " $* " in *" --resume"*) ;; *) resume=(--resume) ;; esac
    # torch keeps one store for all rounds, in which a process can meet the address of one that died
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
else
    where=(--node-rank="${NODE_RANK:-0}" --master-addr="$address" --master-port="$port")
fi

# torchrun would start a stopped process again and hides its status: it ends with 0 and leaves a note instead
MMVISIONLLAMA_STOPPED=$(mktemp -u)
export MMVISIONLLAMA_STOPPED
# SIGUSR1 to all is for this script and for the processes, not for torchrun between them
(
    trap '' USR1
    exec "${PYTHON:-python}" -m torch.distributed.run --nnodes="$nodes" "${where[@]}" --nproc-per-node="$processes" \
        "$tools/train.py" "$config" --launcher pytorch "$@" ${resume[@]+"${resume[@]}"}
) &
launcher=$!
trap 'kill -TERM "$launcher" 2>/dev/null' TERM USR1
trap 'kill -INT "$launcher" 2>/dev/null' INT
while :; do
    wait "$launcher"
    status=$?
    kill -0 "$launcher" 2>/dev/null || break # else a signal has ended the wait
done
if [ -e "$MMVISIONLLAMA_STOPPED" ]; then
    rm -f "$MMVISIONLLAMA_STOPPED"
    status=75
fi
exit "$status"
