#!/bin/sh
# From a bare machine (python3 with venv) to passing tests: environment, ruff, pytest in two processes. Arguments go to pytest.
# usage: sh scripts/test.sh [-k NAME] [-m 'not slow'] [-n 0] ...
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
prepare_environment dev
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
exec "$PYTHON" -m pytest -n 2 --dist worksteal "$@"
