#!/bin/sh
# Stages 2 and 3: train everything but the vision tower.
#
#   MODEL_PATH    what to start from: the folder of an earlier stage (a LoRA folder is merged in memory), the published Senna, a
#                 LLaVA-1.5 checkpoint, or a Llama such as Vicuna alone (projector and adapter then start untrained)
#   DATA          driving questions and answers: a JSON list or JSON Lines; several files with weights: a.json:1.0,b.jsonl:0.5
#   IMAGE_DATA    where the image paths of DATA start (default: DATA's folder)
#   VISION_TOWER  only for a MODEL_PATH that holds none; default openai/clip-vit-large-patch14-336
#   OUT_DIR       default outputs/stage2 or outputs/stage3 in this repository
# --stage 3 trains on the plan alone (default: --stage 2, every question but the plan). Several processes: ZeRO-3.
# Machines: train_tools/launch.sh. Every further argument is a flag of `senna train`:
#   MODEL_PATH=... DATA=... IMAGE_DATA=... sh train_tools/train_senna_llava.sh --stage 3 --learning_rate 1e-5
# Without a GPU: PRESET=tiny sh train_tools/train_senna_llava.sh
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/train_tools/launch.sh"
launch_driving "" zero3.json "" "$@"
