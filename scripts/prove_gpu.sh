#!/bin/sh
# Try on this machine's GPU what only a GPU can show: kernels, 7B training steps with random weights, memory, loading, a resume.
# Nothing is downloaded. At most nine minutes; a part that fails or takes too long does not stop the others. Ends with a table and
# one JSON file, which is complete after every part.
# usage: sh scripts/prove_gpu.sh [--out FILE.json] [--only PART] [--list] [--tiny]     --tiny: small models, also without a GPU
#
#   PYTHON   the interpreter (default: the active environment, else .venv of this repository, else python3)
# Exit code: 0 if no part failed, 1 if one failed, 2 if nothing could be tried.
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
find_interpreter
export PYTHONPATH="$ROOT/scripts:$PYTHONPATH"
exec "$PYTHON" -m prove "$@"
