#!/usr/bin/env bash
# On a new Debian or Ubuntu instance, from the bare image to the rendered report:  cluster/aws/run.sh [DATASET [PRESET]]
# g4dn.xlarge (one T4, 4 vCPU) for a GPU, any many-core instance for scaling. Two vCPU are one core: set the instance's
# threads per core to 1, or count half. End the instance yourself afterwards: it costs while it exists. Predicted times and
# costs: cluster/README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
sudo apt-get update -qq
sudo apt-get install -y -qq make g++ git python3 python3-venv
if command -v nvidia-smi > /dev/null; then nvidia-smi --query-gpu=name,memory.total --format=csv; fi
exec cluster/workstation/run.sh "$@"
