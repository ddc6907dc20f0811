#!/bin/sh
# From a bare machine (python3 with venv, no GPU, no data) to a trained and evaluated model, through every step of a real run:
# a small world in nuScenes' format is drawn and converted, stages 1, 2 and 3 train small models on 32 of its scenes, and the
# model is evaluated on the other eight.
# usage: sh scripts/quickstart.sh [any flag of senna train, for all stages]      OUT_DIR: default outputs/quickstart
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
prepare_environment nuscenes
export PYTHON
out=${OUT_DIR:-$ROOT/outputs/quickstart}
export PRESET=tiny
OUT_DIR=$out/stage1 sh "$ROOT/train_tools/pretrain_senna_llava.sh" "$@"
MODEL_PATH=$out/stage1 OUT_DIR=$out/stage2 sh "$ROOT/train_tools/train_senna_llava.sh" --stage 2 "$@"
MODEL_PATH=$out/stage2 OUT_DIR=$out/stage3 sh "$ROOT/train_tools/train_senna_llava.sh" --stage 3 "$@"
embedded=${SENNA_EMBEDDED:-$ROOT/outputs/embedded}
MODEL_PATH=$out/stage3 DATA=$embedded/qa/senna_nusc_val.jsonl TRAIN_DATA=$embedded/qa/senna_nusc_train.jsonl \
    IMAGE_DATA=$embedded/nuscenes OUT_DIR=$out/evaluation NUM_GPUS=1 OMP_NUM_THREADS=1 \
    sh "$ROOT/scripts/eval_meta_action.sh" --blackout --device cpu --workers 1
# The last command decides the exit code, also of a shell that went on after an error.
[ -s "$out/evaluation/report.html" ] && echo "report: $out/evaluation/report.html"
