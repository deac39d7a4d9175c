#!/bin/bash
# Two nodes of eight cards: sbatch examples/10_slurm.sh config.json
#SBATCH --job-name=modelforge
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

# One task a node; each starts the processes of its own cards. Two minutes before the time is up
# Slurm sends SIGTERM: the run saves the step it is in, and the requeued job goes on from there.
main=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export main config=$1
srun bash -c 'exec modelforge train "$config" \
  --num-processes $((SLURM_NNODES * SLURM_GPUS_ON_NODE)) \
  --set distributed.num_machines="$SLURM_NNODES" \
  --set distributed.machine_rank="$SLURM_NODEID" \
  --set distributed.main_address="$main" \
  --set distributed.main_port=29500'
