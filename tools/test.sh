#!/usr/bin/env bash
# Set up .venv if it is missing, lint, run all tests. Arguments go to pytest: tools/test.sh -k statistics
set -euo pipefail
source "$(dirname "$0")/venv.sh"
cd "$root"
unset PYTHONDONTWRITEBYTECODE # with it, each worker would rewrite the assertions of all tests again, five CPU seconds
.venv/bin/ruff format --check kdep benchmarks tools tests setup.py
.venv/bin/ruff check kdep benchmarks tools tests setup.py
exec .venv/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder "$@"
