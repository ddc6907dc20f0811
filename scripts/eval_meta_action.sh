#!/bin/sh
# Evaluate a model: OUT_DIR/metrics.json, report.html and plots, with baselines and 95 % intervals.
#
#   MODEL_PATH   a model folder, a LoRA folder or a hub name
#   DATA         the records to evaluate on: senna_nusc_val.jsonl
#   IMAGE_DATA   the folder that image paths in DATA are relative to (default: the folder of DATA)
#   TRAIN_DATA   the training records, for fitting the baselines (default: DATA, which favours the baselines)
#   OUT_DIR      default outputs/evaluation in this repository
#   NUM_GPUS     processes on this machine (default: the GPUs found, else 1)
#   PYTHON       the interpreter (default: .venv of this repository, else python3)
# To continue an interrupted run, run the same command again. Every further argument is a flag of `senna evaluate`:
#   MODEL_PATH=outputs/stage3 DATA=senna_nusc_val.jsonl sh scripts/eval_meta_action.sh --blackout --limit 500
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
find_interpreter
exec "$PYTHON" -m senna launch evaluate "$@"
