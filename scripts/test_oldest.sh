#!/bin/sh
# Tests of the interfaces to transformers, PEFT, accelerate and bitsandbytes with their oldest supported versions, in .venv-oldest.
# usage: sh scripts/test_oldest.sh [--environment-only] [any argument of pytest]
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
prepare_environment oldest oldest
[ "${1:-}" != --environment-only ] || exit 0
cd "$ROOT"
exec "$PYTHON" -m pytest -n 2 --dist worksteal -m 'not slow' \
    tests/model tests/train/test_checkpoint.py tests/train/test_driving.py tests/train/test_early_end.py \
    tests/train/test_generation_config.py tests/train/test_manifest.py tests/train/test_run.py tests/train/test_trainer_api.py "$@"
