#!/bin/sh
# Train and convert for an hour on a million records, and watch memory, open files and throughput of every process.
# usage: sh scripts/soak.sh [MINUTES] [--out FOLDER] [--records N]      (default: 60 minutes, outputs/soak-TIME)
#
#   PYTHON   the interpreter (default: the active environment, else .venv of this repository, else python3)
#   TMPDIR   where records and runs are written (3 GB; deleted at the end)
# Exit code: 0 if nothing grew and nothing became slower, otherwise 1; 2 if the soak could not start; 130 after Ctrl-C.
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
find_interpreter
export PYTHONPATH="$ROOT/scripts:$PYTHONPATH"
exec "$PYTHON" -m soak "$@"
