#!/bin/sh
# From a bare machine (python3 with venv, no GPU, no data) to a trained stage-1 model on data that the project draws itself.
# usage: sh scripts/quickstart.sh [any flag of senna train]      OUT_DIR: where to (default: outputs/quickstart)
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
prepare_environment ""
export PYTHON
OUT_DIR=${OUT_DIR:-$ROOT/outputs/quickstart/stage1} PRESET=tiny sh "$ROOT/train_tools/pretrain_senna_llava.sh" "$@"
