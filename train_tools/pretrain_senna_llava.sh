#!/bin/sh
# Stage 1: train the projector and the driving vision adapter on image-caption pairs.
#
#   MODEL_PATH    the LLM: a folder or a hub name (lmsys/vicuna-7b-v1.5)
#   DATA          captions: a JSON list or JSON Lines in the format of LLaVA-Pretrain
#   IMAGE_DATA    the folder that image paths in DATA are relative to (default: the folder of DATA)
#   VISION_TOWER  default openai/clip-vit-large-patch14-336
#   OUT_DIR       default outputs/stage1 in this repository
# GPUs and machines: `senna launch --help`. Every further argument is a flag of `senna train`:
#   MODEL_PATH=... DATA=... sh train_tools/pretrain_senna_llava.sh --per_device_train_batch_size 16
# Without a GPU: PRESET=tiny sh train_tools/pretrain_senna_llava.sh
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
find_interpreter
exec "$PYTHON" -m senna launch pretrain "$@"
