#!/bin/sh
# Tests of `senna convert --ray`: clusters of several nodes on this machine whose nodes, processes and drivers are killed. They use
# the environment of scripts/test.sh, and run one after the other, since each takes all cores.
# usage: sh scripts/test_ray.sh [any argument of pytest]
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
prepare_environment dev
cd "$ROOT"
exec "$PYTHON" -m pytest tests/convert/test_ray_pool.py tests/convert/test_on_ray.py tests/scripts/test_benchmark_ray.py "$@"
