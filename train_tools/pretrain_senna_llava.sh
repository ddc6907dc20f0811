#!/bin/sh
# Stage 1: train the projector and the driving vision adapter on image-caption pairs.
#
#   MODEL_PATH    the LLM: folder or hub name (lmsys/vicuna-7b-v1.5)
#   DATA          captions: a JSON list or JSON Lines in LLaVA-Pretrain's form
#   IMAGE_DATA    where the image paths of DATA start (default: DATA's folder)
#   VISION_TOWER  default openai/clip-vit-large-patch14-336
#   OUT_DIR       default outputs/stage1 in this repository
# Machines: train_tools/launch.sh. Every further argument is a flag of `senna train`:
#   MODEL_PATH=... DATA=... sh train_tools/pretrain_senna_llava.sh --per_device_train_batch_size 16
# Without a GPU: PRESET=tiny sh train_tools/pretrain_senna_llava.sh
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/train_tools/launch.sh"
launch stage1_pretrain.yaml stage1 zero2.json "" "$@"
