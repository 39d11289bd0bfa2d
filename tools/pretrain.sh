#!/usr/bin/env bash
# Distil a teacher into a student:  tools/pretrain.sh RECIPE [key.sub=value ...]
# On several GPUs:                  GPUS=8 tools/pretrain.sh ...
# On several machines, on each:     GPUS=8 NNODES=2 MASTER_ADDR=host [MASTER_PORT=29500] tools/pretrain.sh ...
# RESTARTS=N starts all processes again up to N times after one has failed. The same command resumes a run.
set -euo pipefail
source "$(dirname "$0")/venv.sh"
if [[ "${GPUS:-1}" -gt 1 || "${NNODES:-1}" -gt 1 ]]; then
  # Without it every machine would wait for the others at its own address until torch gives up.
  [[ "${NNODES:-1}" -eq 1 ]] || : "${MASTER_ADDR:?is to name the first of the NNODES machines}"
  port="${MASTER_PORT:-$([[ "${NNODES:-1}" -gt 1 ]] && echo 29500 || echo 0)}" # 0: any free one
  # With a shared store, gloo would look for the addresses of dead processes after a restart.
  export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
  exec "$root/.venv/bin/python" -m torch.distributed.run --nproc-per-node "${GPUS:-1}" --nnodes "${NNODES:-1}" \
    --rdzv-backend c10d --rdzv-endpoint "${MASTER_ADDR:-127.0.0.1}:$port" --rdzv-id "${RUN_ID:-kdep}" \
    --max-restarts "${RESTARTS:-0}" --no-python "$root/.venv/bin/kdep" pretrain "$@"
fi
exec "$root/.venv/bin/kdep" pretrain "$@"
