#!/usr/bin/env bash
# Pretrain on several machines of a Slurm cluster; a template:  sbatch tools/slurm_pretrain.sh RECIPE [key.sub=value ...]
# From the folder of kdep, on a disk that all machines share. After a requeue the run goes on where it was.
#SBATCH --job-name=kdep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)}
export MASTER_ADDR NNODES=$SLURM_NNODES RUN_ID=$SLURM_JOB_ID GPUS=${GPUS:-${SLURM_GPUS_ON_NODE:-1}}
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000)) # two jobs on one machine take different ports
# Since Slurm 22.05 srun does not pass on the CPUs of sbatch: the processes would share one core.
[[ -z "${SLURM_CPUS_PER_TASK:-}" ]] || export SRUN_CPUS_PER_TASK="${SRUN_CPUS_PER_TASK:-$SLURM_CPUS_PER_TASK}"
exec srun --kill-on-bad-exit=1 tools/pretrain.sh "$@"
