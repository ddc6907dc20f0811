#!/bin/sh
# Stages 2 and 3: train all parameters but the vision tower.
#
#   MODEL_PATH    the model to start from: the folder of an earlier stage (a LoRA folder is merged in memory), the published
#                 Senna, a LLaVA-1.5 checkpoint, or a Llama such as Vicuna (projector and adapter then start untrained)
#   DATA          driving questions and answers: a JSON list or JSON Lines; several files with weights: a.json:1.0,b.jsonl:0.5
#   IMAGE_DATA    the folder that image paths in DATA are relative to (default: the folder of DATA)
#   VISION_TOWER  only for a MODEL_PATH without a vision tower; default openai/clip-vit-large-patch14-336
#   OUT_DIR       default outputs/stage2 or outputs/stage3 in this repository
# --stage 3 trains on the plan only (default: --stage 2, every question but the plan). Several GPUs train under ZeRO-3.
# GPUs and machines: `senna launch --help`. Every further argument is a flag of `senna train`:
#   MODEL_PATH=... DATA=... IMAGE_DATA=... sh train_tools/train_senna_llava.sh --stage 3 --learning_rate 1e-5
# Without a GPU: PRESET=tiny sh train_tools/train_senna_llava.sh
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
find_interpreter
exec "$PYTHON" -m senna launch full "$@"
