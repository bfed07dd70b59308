#!/bin/bash
# One run over several nodes: torchrun under srun, one per node, which find each other at the first node.
#
#   sbatch --nodes=2 --gpus-per-node=8 scripts/sbatch_nodes.sh experiment=paper/vit_base_imagenet sparsity=1:32 recipe=mdgf
#
# 120 s before the time limit the run is saved; then the job is put back in line and goes on.
#SBATCH --job-name=nmtrain
#SBATCH --output=nmtrain-%j.log
#SBATCH --open-mode=append
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --ntasks-per-node=1
#SBATCH --signal=USR2@120
# Set up what nmtrain needs here: module load cuda; source /path/to/.venv/bin/activate

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" \
  --rdzv-backend=c10d --rdzv-endpoint="$first:29500" --rdzv-id="$SLURM_JOB_ID" \
  -m nmtrain "$@"
