#!/bin/sh
# How well a model plans: OUT_DIR/metrics.json, report.html and plots, with baselines and 95 % intervals.
#
#   MODEL_PATH   a model folder, a LoRA folder or a hub name
#   DATA         the records: senna_nusc_val.jsonl
#   IMAGE_DATA   where image paths start (default: beside DATA)
#   TRAIN_DATA   the training records, on which the baselines are fitted (default: the evaluated records, which favours them)
#   OUT_DIR      default outputs/evaluation in this repository
#   NUM_GPUS     processes on this machine (default: the GPUs seen, else 1)
#   PYTHON       the interpreter (default: .venv of this repository, else python3)
# Stopped, it goes on where it stood when started again. Every further argument is a flag of `senna evaluate`:
#   MODEL_PATH=outputs/stage3 DATA=senna_nusc_val.jsonl sh scripts/eval_meta_action.sh --blackout --limit 500
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/train_tools/launch.sh"
find_interpreter
[ -n "${MODEL_PATH:-}" ] || say_and_stop "MODEL_PATH is not set: a model folder, a LoRA folder or a hub name"
[ -n "${DATA:-}" ] || say_and_stop "DATA is not set: the records to evaluate on, senna_nusc_val.jsonl for example"
set -- evaluate --model "$MODEL_PATH" --data "$DATA" --out "${OUT_DIR:-$ROOT/outputs/evaluation}" "$@"
[ -z "${IMAGE_DATA:-}" ] || set -- "$@" --image-folder "$IMAGE_DATA"
[ -z "${TRAIN_DATA:-}" ] || set -- "$@" --train-data "$TRAIN_DATA"
NUM_GPUS=${NUM_GPUS:-$(count_gpus)}
if [ "$NUM_GPUS" -gt 1 ]; then
    exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$NUM_GPUS" -m senna "$@"
fi
exec "$PYTHON" -m senna "$@"
