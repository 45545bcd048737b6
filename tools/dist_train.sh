#!/usr/bin/env bash
# Trains on several GPUs of a machine, or without a GPU in several processes:
#     tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# Several machines: run it on each with NNODES, NODE_RANK (0 ... NNODES-1), and the first one's MASTER_ADDR and PORT.
set -euo pipefail
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
check_processes "$processes" "${PORT:-29500}" "$config"

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    --nproc-per-node="$processes" \
    "$tools/train.py" "$config" --launcher pytorch "$@"
