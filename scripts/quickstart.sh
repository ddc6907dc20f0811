#!/bin/sh
# From a bare machine (python3 with venv, no GPU, no data) to a trained model that drives, through every step of a real run: a small
# world in nuScenes' format is drawn and converted, stages 1, 2 and 3 train small models on 31 of its scenes, decisions are calibrated
# on five, the model is evaluated on eight, and it drives a scene that it has never seen.
# usage: sh scripts/quickstart.sh [any flag of senna train, for all stages]      OUT_DIR: default outputs/quickstart
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
prepare_environment nuscenes
export PYTHON
out=${OUT_DIR:-$ROOT/outputs/quickstart}
embedded=${SENNA_EMBEDDED:-$ROOT/outputs/embedded}
export PRESET=tiny OMP_NUM_THREADS=1
# The road images of stage 1, its pretrained models, and the world of all other steps.
"$PYTHON" -m senna synthesize --stage1 --scenes 44 --image-width 448 --out "$embedded"
OUT_DIR=$out/stage1 sh "$ROOT/train_tools/pretrain_senna_llava.sh" "$@"
MODEL_PATH=$out/stage1 OUT_DIR=$out/stage2 sh "$ROOT/train_tools/train_senna_llava.sh" --stage 2 "$@"
MODEL_PATH=$out/stage2 OUT_DIR=$out/stage3 sh "$ROOT/train_tools/train_senna_llava.sh" --stage 3 --kinds plan,trajectory "$@"
"$PYTHON" -m senna calibrate --model "$out/stage3" --data "$embedded/qa/senna_nusc_dev.jsonl" --image-folder "$embedded/nuscenes" \
    --device cpu --workers 1
MODEL_PATH=$out/stage3 DATA=$embedded/qa/senna_nusc_val.jsonl TRAIN_DATA=$embedded/qa/senna_nusc_train.jsonl \
    IMAGE_DATA=$embedded/nuscenes OUT_DIR=$out/evaluation NUM_GPUS=2 \
    sh "$ROOT/scripts/eval_meta_action.sh" --kinds plan,trajectory --trajectory-tries 4 --blackout --decision balanced \
        --device cpu --workers 1
"$PYTHON" -m senna drive --model "$out/stage3" --decision balanced --image-width 448 --scenes 1 --driver model \
    --out "$out/drive"
# The last command decides the exit code, also of a shell that went on after an error.
[ -s "$out/evaluation/report.html" ] && echo "report: $out/evaluation/report.html"
[ -s "$out/drive/drive.html" ] && echo "drive:  $out/drive/drive.html"
