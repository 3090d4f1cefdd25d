#!/usr/bin/env bash
# Set the environment up, once, on a login node, from the project's root:  cluster/bridges2/setup.sh [gpu]
# With `gpu` it takes the CUDA build of torch; run it in a job on a GPU node if the login node has no room for it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source cluster/bridges2/site.sh
load_modules "${1:-}"
"$PYTHON_FOR_VENV" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$PYTHON_FOR_VENV is older than Python 3.11: name another with  PYTHON=/path/to/python3.11 $0" >&2; exit 1; }
"$PYTHON_FOR_VENV" -m venv .venv
if [ "${1:-}" = gpu ]; then
    .venv/bin/pip install 'torch>=2.11' 'torchvision>=0.26'   # the index's own build, which has CUDA
else
    .venv/bin/pip install -c constraints.txt "$(grep '^torch==' constraints.txt)"
fi
.venv/bin/pip install -c <(grep -v -E '^(torch|torchvision)==' constraints.txt) -e '.[report,dev]'
touch .venv/.ready
echo "ready: sbatch cluster/bridges2/rm.sbatch"
