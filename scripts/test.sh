#!/bin/sh
# From a bare machine (python3 with venv) to passing tests: environment, ruff, import contracts, types, and pytest in two processes.
# The slow tests have a command of their own, scripts/test_slow.sh.
# usage: sh scripts/test.sh [--lint-only] [any argument of pytest: -k NAME, -m 'not slow', -n 0, ...]
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
prepare_environment dev
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-cache
"$PYTHON" -m pyright --pythonpath "$PYTHON"
[ "${1:-}" != --lint-only ] || exit 0
exec "$PYTHON" -m pytest -n 2 --dist worksteal -m 'not slow' "$@"
