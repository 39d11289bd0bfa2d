#!/usr/bin/env bash
# Create .venv if it is missing; the other scripts source this one, and find the checkout in $root. They stay in the folder
# where they are called, to which the paths in their arguments belong. PYTHON=python3.12 chooses the interpreter, EXTRAS
# the extras.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ ! -e "$root/.venv/complete" ]]; then (
  cd "$root"
  echo "setting up .venv (torch, timm, mmengine, mmsegmentation, mmdet; about 1.5 GB, one to three minutes)"
  "${PYTHON:-python3}" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --editable ".[${EXTRAS:-openmmlab,demo,dev}]"
  # pip would compile on one core, and the tests of all packages too
  .venv/bin/python -m compileall -qq -j 0 -x '/(pip|tests|torch/_inductor)/' .venv/lib || true
  touch .venv/complete
) fi
