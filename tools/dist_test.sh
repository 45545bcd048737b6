#!/usr/bin/env bash
# Evaluates on several GPUs of a machine, or without a GPU in several processes:
#     tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# Several machines: run it on each with NNODES, NODE_RANK (0 ... NNODES-1), and the first one's MASTER_ADDR and PORT.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT PROCESSES [options of tools/test.py]" >&2
    exit 2
fi
config=$1
checkpoint=$2
processes=$3
shift 3
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
    "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
