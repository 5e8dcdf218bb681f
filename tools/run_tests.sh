#!/usr/bin/env bash
# Installs what is missing, then lints and tests.
# usage: bash tools/run_tests.sh [PYTEST ARGUMENTS]      (default: all tests, two processes)
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$repo/tools/install.sh" --dev
. "${VIRTUAL_ENV:-$repo/.venv}/bin/activate"
cd "$repo"
ruff check .
ruff format --check .
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}   # small models run fastest on one thread, and two processes share the cores
if [ $# -eq 0 ]; then set -- -n 2; fi
exec python -m pytest "$@"
