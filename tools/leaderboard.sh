#!/usr/bin/env bash
# Rebuild leaderboard.csv, .md, .html:  tools/leaderboard.sh [RESULTS ...] [--out DIR]
# Results of several machines:          tools/leaderboard.sh merge DIR ... --results OUT
# Compare two checkpoints:              tools/leaderboard.sh compare A B [--task T] [--results DIR]
set -euo pipefail
source "$(dirname "$0")/venv.sh"
if [[ "${1:-}" == compare ]]; then exec "$root/.venv/bin/kdep" "$@"; fi
exec "$root/.venv/bin/kdep" leaderboard "$@"
