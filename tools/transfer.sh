#!/usr/bin/env bash
# Measure checkpoints on a suite: tools/transfer.sh CKPT [CKPT ...] --suite all [--seeds 0,1,2] [--data-root DIR] [--help]
set -euo pipefail
source "$(dirname "$0")/venv.sh"
exec "$root/.venv/bin/kdep" transfer "$@"
