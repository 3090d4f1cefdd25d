# What is true of Bridges-2 alone; another site is another file like this one. The site's guide has the last word.
load_modules() {  # the testbed has none
    if command -v module > /dev/null; then
        module purge
        module load anaconda3 openmpi/4.0.5-gcc10.2.0
        if [ "${1:-}" = gpu ]; then module load cuda; fi
    fi
}
PROJECT_STORAGE="${PROJECT:-$PWD}"          # seen by all nodes: results and executed notebooks
NODE_SCRATCH="${LOCAL:-${TMPDIR:-/tmp}}"    # each node's own, gone with the job: data
PYTHON_FOR_VENV="${PYTHON:-python3}"        # anaconda3's, once the module is loaded; 3.11 or newer
