#!/usr/bin/env bash
# Distil a teacher into a student:   tools/pretrain.sh RECIPE [key.sub=value ...]
# On several GPUs or machines:       GPUS=8 [NNODES=2 NODE_RANK=0 MASTER_ADDR=host MASTER_PORT=29500] tools/pretrain.sh ...
# After an interruption the same command resumes the run.
set -euo pipefail
source "$(dirname "$0")/venv.sh"
if [[ "${GPUS:-1}" -gt 1 || "${NNODES:-1}" -gt 1 ]]; then
  exec .venv/bin/torchrun --nproc_per_node "${GPUS:-1}" --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}" \
    --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${MASTER_PORT:-29500}" -m kdep.cli pretrain "$@"
fi
exec .venv/bin/kdep pretrain "$@"
