# What every job does; sourced by the batch scripts after the file of their site, in the project's root.
export PATH="$PWD/.venv/bin:$PATH" PYTHONPATH="$PWD"
export NNPAR_RESUME=1          # after a requeue, runs that are recorded are not done again
export OMP_NUM_THREADS=1       # until a run sets its own number
RESULTS="${RESULTS:-$PROJECT_STORAGE/nnpar-results}"

copy_folder() {  # copy_folder SOURCE TARGET: bring TARGET's files up to date, each whole or not at all; one process at a time
    local file
    mkdir -p "$2" && exec 9< "$2" && flock 9 || return 1
    find -L "$1" -type f -printf '%P\0' | while IFS= read -r -d '' file; do
        cmp -s "$1/$file" "$2/$file" && continue    # a copy that was cut off may be newer than its source
        mkdir -p "$(dirname "$2/$file")" && cp "$1/$file" "$2/$file.part" && mv "$2/$file.part" "$2/$file" || exit 1
    done || return 1
    find "$2" -name '*.part' -delete
    exec 9<&-
}

stage_data() {  # copy the data sets, where there are any, to the scratch folder of each node
    [ -n "${NNPAR_DATA:-}" ] || return 0
    srun --mpi=none --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 bash -c \
        "$(declare -f copy_folder)"'; copy_folder "$0" "$1"' "$NNPAR_DATA" "$NODE_SCRATCH/nnpar-data"
    export NNPAR_DATA="$NODE_SCRATCH/nnpar-data"
}

run_notebook() {  # run_notebook NOTEBOOK PARAMETERS: execute it over all ranks of the job and render it, records beside it
    local folder executed
    folder="$RESULTS/$(basename "$2" .yml)"
    executed="$folder/$(basename "$1" .ipynb)-$SLURM_JOB_ID.ipynb"
    mkdir -p "$folder"
    stage_data
    rm -rf notebooks/.nnpar-"$SLURM_JOB_ID"-*    # of this job before it was requeued
    papermill --log-output --no-progress-bar --cwd notebooks -k python3 -f "$2" \
        -p num_ranks "$SLURM_NTASKS" -p results_folder "$(realpath "$folder")" "$1" "$executed"
    python report/build.py --page "$executed"
}

run_scaling() {  # run_scaling OPTIONS: the trainers without a notebook, on 1, 2, 4, ... ranks up to all of the job
    local ranks
    mkdir -p "$RESULTS"
    stage_data
    for ((ranks = 1; ranks <= SLURM_NTASKS; ranks *= 2)); do
        python -m nnpar_lib run --strategy gradient_averaging --num-ranks "$ranks" --skip-done \
            --checkpoint "$RESULTS/$SLURM_JOB_ID-$ranks.checkpoint" --out "$RESULTS/$SLURM_JOB_ID.jsonl" "$@"
    done
}
