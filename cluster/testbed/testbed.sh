#!/usr/bin/env bash
# A SLURM on this machine that looks like Bridges-2, to try batch scripts out (as root; needs slurm-wlm):
#     cluster/testbed/testbed.sh start FOLDER    then: export SLURM_CONF=FOLDER/slurm.conf; sbatch cluster/bridges2/rm.sbatch
#     cluster/testbed/testbed.sh stop FOLDER
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
action="${1:?start or stop}" state="$(realpath -m "${2:?a folder}")"
nodes=(r001 r002 v002 v003 w001 d001)
export SLURM_CONF="$state/slurm.conf"

cores_of() {  # the two RM nodes have half of this machine's cores each: ranks on two nodes then share no core
    python3 - "$1" << 'END'
import os, sys
cores = sorted(os.sched_getaffinity(0))
half = (len(cores) + 1) // 2
print(*{"r001": cores[:half], "r002": cores[-half:]}.get(sys.argv[1], cores), sep=",")
END
}

start() {
    mkdir -p "$state/state"
    for node in "${nodes[@]}"; do mkdir -p "$state/spool.$node"; done
    sed "s|@HOST@|$(hostname -s)|g; s|@STATE@|$state|g; s|@PORT@|${TESTBED_PORT:-16817}|g" "$here/slurm.conf.in" \
        > "$SLURM_CONF"
    cp "$here/gres.conf" "$state/gres.conf"
    slurmctld -c -i
    for node in "${nodes[@]}"; do taskset --cpu-list "$(cores_of "$node")" slurmd -N "$node"; done
    for _ in $(seq 100); do
        if [ "$(sinfo -h -t idle -N -o %N | sort -u | wc -l)" = "${#nodes[@]}" ]; then return; fi
        sleep 0.1
    done
    sinfo >&2
    return 1
}

stop() {  # by the process ids that the daemons left: another SLURM on this machine goes on
    scancel --user=root 2> /dev/null || true
    for file in "$state"/slurmd.*.pid "$state"/slurmctld.pid; do
        [ -f "$file" ] && kill "$(cat "$file")" 2> /dev/null || true
    done
}

"$action"
