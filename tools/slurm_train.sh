#!/usr/bin/env bash
# Trains on several machines under SLURM:
#   sbatch --nodes 2 --gpus-per-node 8 tools/slurm_train.sh train_net.py --config coco_r50.yaml
# The tool and its arguments follow the script. Data and the run directory lie where all machines see them (only the
# data must). --resume makes the script its own continuation: a job that was requeued, or submitted again, goes on.
#SBATCH --job-name=detres
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -euo pipefail

tool="${1:?usage: sbatch tools/slurm_train.sh train_net.py --config NAME [key=value ...]}"
shift
# The repository: where the job was submitted from (SLURM runs a copy of this file).
cd "${SLURM_SUBMIT_DIR:-.}"

# The first machine of the job is where the processes meet; the port follows from the job, so that two jobs differ.
head_node="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
port=$((20000 + SLURM_JOB_ID % 20000))

# OMP_NUM_THREADS: torchrun would set 1; the data workers have their own processes, the main ones need few threads.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"

exec srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" \
    --nproc-per-node "${SLURM_GPUS_ON_NODE:-8}" \
    --rdzv-backend c10d \
    --rdzv-id "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" \
    --rdzv-endpoint "$head_node:$port" \
    --max-restarts 3 \
    "tools/$tool" "$@" --resume
