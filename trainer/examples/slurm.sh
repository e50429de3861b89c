#!/bin/sh
#SBATCH --job-name=train
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
# One training on eight nodes, one process each. Three minutes before the time is
# up, and when the job is preempted, all processes stop after the same step with a
# checkpoint; then the job is requeued and resumes from there. A job whose node dies
# is requeued by Slurm itself. OUT must be on storage that all nodes share.
srun --mpi=pmix --kill-on-bad-exit=1 evatool train \
	"${RECIPE:-recipe.yaml}" --out "${OUT:-/shared/run}"
status=$?
if [ "$status" = 130 ]; then # stopped, not done
	scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
