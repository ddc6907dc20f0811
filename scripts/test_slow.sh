#!/bin/sh
# The tests marked slow, in the environment of scripts/test.sh: whole runs that are killed and resumed, several processes, and
# Ray clusters. Those of Ray run alone at the end, since each takes all cores.
# usage: sh scripts/test_slow.sh [any argument of pytest: -k NAME, -x, ...]
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
prepare_environment dev
cd "$ROOT"
failed=0 given=$#
run() {
    code=0
    "$PYTHON" -m pytest -m slow "$@" || code=$?
    # 5: no test was selected, which is right where -k names one of the other part
    if [ "$code" != 0 ] && ! { [ "$code" = 5 ] && [ "$given" -gt 0 ]; }; then failed=1; fi
}
# Only files with slow tests are collected, which saves the imports of the others.
files=$(grep -rl --include='test_*.py' 'mark\.slow' tests | grep -v 'test_.*ray')
# shellcheck disable=SC2086 # no path of a test has blanks
run -n 2 --dist worksteal $files "$@"
run tests/convert/test_ray_pool.py tests/convert/test_on_ray.py tests/scripts/test_benchmark_ray.py "$@"
exit "$failed"
