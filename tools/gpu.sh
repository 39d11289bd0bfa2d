#!/usr/bin/env bash
# Check and measure kdep on a GPU in at most ten minutes; writes docs/figures/gpu.json and gpu.md after every step.
# PYTHON=python3 uses a Python that has torch with CUDA; otherwise .venv is set up. Arguments: tools/gpu.sh --help
set -euo pipefail
if [[ -z "${PYTHON:-}" ]]; then
  source "$(dirname "$0")/venv.sh"
  PYTHON=.venv/bin/python
fi
cd "$(dirname "$0")/.."
exec "$PYTHON" -m tools.gpu.main "$@"
