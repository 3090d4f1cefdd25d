#!/usr/bin/env bash
# From a bare Linux machine (8 to 64 cores, such as a lab's) to the rendered report:  cluster/workstation/run.sh [DATASET [PRESET]]
# Goes on where an earlier call was cut off. No root needed where Python 3.11 with venv, make and a C++ compiler are there.
# Predicted times: cluster/README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
for tool in make g++ "${PYTHON:-python3}"; do
    command -v "$tool" > /dev/null || { echo "$tool is missing: ask for it, or load its module, first" >&2; exit 1; }
done
echo "load average $(cut -d ' ' -f 1 /proc/loadavg) on $(nproc) cores: others' work falsifies measurements" >&2
exec make report DATASET="${1:-digits}" PRESET="${2:-quick}" RESUME=1 PYTHON="${PYTHON:-python3}"
