#!/usr/bin/env bash
# Trains a tiny model on a Slurm of this machine alone, stops it by a signal, waits until Slurm has started it again, and
# compares its weights with those of a training that was left alone. Starts and stops munged, slurmctld and slurmd.
#     apt-get install slurmctld slurmd slurm-client munge; [PYTHON=...] tools/dev/slurm_test.sh
# Says "skipped" and ends with 0 where that cannot run: without the programs, without root, with another Slurm around.
set -euo pipefail
skip() {
    echo "skipped: $1"
    exit 0
}
for program in munged slurmctld slurmd srun sbatch scontrol; do
    PATH=$PATH:/usr/sbin command -v "$program" > /dev/null || skip "$program is not installed"
done
export PATH=$PATH:/usr/sbin
[ "$(id -u)" = 0 ] || skip 'the daemons need root'
[ -e /etc/munge/munge.key ] || skip 'munge has no key'
if scontrol ping > /dev/null 2>&1; then skip 'a Slurm runs here already'; fi

root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python}
folder=$(mktemp -d)
daemons=()
# shellcheck disable=SC2317 # a trap
finish() {
    scancel --full --user=root > /dev/null 2>&1 || true
    sleep 2
    for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do kill "${daemons[i]}" 2> /dev/null || true; done
    sleep 2 # slurmd would wait for its steps
    for daemon in "${daemons[@]}"; do kill -KILL "$daemon" 2> /dev/null || true; done
    wait || true
    rm -rf "$folder"
}
trap finish EXIT

if ! munge -n > /dev/null 2>&1; then
    mkdir -p /run/munge /var/log/munge
    chown munge: /run/munge /var/log/munge
    setpriv --reuid=munge --regid=munge --clear-groups munged --foreground 2> "$folder/munged.log" &
    daemons+=($!)
fi
host=$(hostname -s)
mkdir -p "$folder/state" "$folder/spool"
cat > "$folder/slurm.conf" << CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
AuthInfo=cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=10 State=UP
CONF
export SLURM_CONF=$folder/slurm.conf
slurmctld -D -f "$SLURM_CONF" > "$folder/slurmctld.log" 2>&1 &
daemons+=($!)
slurmd -D -f "$SLURM_CONF" -N "$host" > "$folder/slurmd.log" 2>&1 &
daemons+=($!)
for _ in $(seq 60); do
    if sinfo -h -t idle -o %D 2> /dev/null | grep -q 1; then break; fi
    sleep 1
done
if ! sinfo -h -t idle -o %D | grep -q 1; then
    tail -5 "$folder"/*.log
    skip 'Slurm does not start here'
fi

export PYTHON=$python PYTHONPATH=$root/tools/dev:$root${PYTHONPATH:+:$PYTHONPATH} CUDA_VISIBLE_DEVICES=''
export OMP_NUM_THREADS=1
"$python" - "$folder" << 'PY'
import sys
from pathlib import Path

import kill_test

folder = Path(sys.argv[1])
for name in ('whole', 'requeued'):
    (folder / name).mkdir()
cfg = kill_test.make_config(folder / 'requeued', True, 2)
cfg.custom_imports = dict(imports=['mmvisionllama', 'kill_test'], allow_failed_imports=False)
cfg.model.seconds = 0.3
cfg.dump(folder / 'config.py')
assert not any(kill_test.wait(kill_test.start(folder / 'whole', True, 2)))
PY
BATCH=1 GPUS=2 GPUS_PER_NODE=0 CPUS_PER_TASK=1 SBATCH_ARGS='--time=5' \
    bash "$root/tools/slurm_train.sh" test tiny "$folder/config.py" "$folder/requeued"
job=$(squeue -h -o %i)
lines() { cat "$folder/requeued/rank0.jsonl" 2> /dev/null | wc -l; }
for _ in $(seq 600); do
    if [ "$(lines)" -ge 7 ]; then break; fi
    sleep 0.2
done
scancel --signal=USR1 "$job" # as --signal does before the time limit: to the steps, not to the script
echo "signalled after $(lines) lines"
ended=0
for _ in $(seq 300); do
    state=$(scontrol show job "$job" | tr ' ' '\n' | grep -E '^(JobState|Restarts|ExitCode)=' | tr '\n' ' ')
    case "$state" in
        *=COMPLETED*) break ;;
        *=FAILED* | *=CANCELLED* | *=TIMEOUT*) ended=$((ended + 1)) ;; # also for a moment before it is queued again
        *) ended=0 ;;
    esac
    if [ "$ended" -ge 20 ]; then break; fi
    sleep 1
done
echo "$state"
if [[ $state != *=COMPLETED*Restarts=1*ExitCode=0:0* ]]; then
    tail -50 "$folder"/requeued/slurm-*.out
    exit 1
fi
"$python" - "$folder" << 'PY' || { tail -50 "$folder"/requeued/slurm-*.out; exit 1; }
import sys
from pathlib import Path

import kill_test
import torch

folder = Path(sys.argv[1])
iterations = [i for i, _ in kill_test.read(folder / 'requeued')[0]]
assert iterations == list(range(40)), f'iterations {iterations}'
text = next((folder / 'requeued').glob('slurm-*.out')).read_text()
assert 'resumes from' in text and 'stopped_iter_' in text, 'the training was not stopped and resumed'
first, second = (kill_test.weights(folder / name, True) for name in ('whole', 'requeued'))
assert all(torch.equal(first[key], second[key]) for key in first), 'the weights differ'
print('requeued once: no iteration twice, the same weights')
PY
