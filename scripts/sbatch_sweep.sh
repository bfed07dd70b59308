#!/bin/bash
# A sweep on SLURM by plain sbatch, without a launcher: every job of the array is given the whole line, takes a run that
# no other has, and ends when none is left to take. From the folder in which nmtrain is run:
#
#   sbatch --array=1-8 --gpus=1 scripts/sbatch_sweep.sh recipe=dense,sr_ste,mdgf,sdgf sparsity=2:4,1:8 seed=0,1,2
#   nmtrain status
#
# Give the same line again to go on, or a longer one to extend the sweep. Options of sbatch before the script win over
# those below. 120 s before its time limit a job is sent USR2: its run is saved, and the job put back in line.
#SBATCH --job-name=nmtrain
#SBATCH --output=nmtrain-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
# Set up what nmtrain needs here: module load cuda; source /path/to/.venv/bin/activate

# `exec`: the signals of SLURM go to nmtrain itself and not to this shell. Jobs do not wait for runs of others.
exec nmtrain -m cluster.wait=false "$@"
