#!/bin/sh
# Draw a model's answers: an image per key frame and a film per scene, in OUT_DIR.
#
#   MODEL_PATH   the model: a folder or a hub name, or a LoRA folder
#   DATA         the records to show, a JSON or JSON Lines file
#   IMAGE_DATA   the folder that image paths in DATA are relative to (default: the folder of DATA)
#   OUT_DIR      default outputs/pictures in this repository
#   PYTHON       the interpreter (default: .venv of this repository, else python3)
# To continue an interrupted run, run the same command again. Every further argument is a flag of `senna visualize`:
#   MODEL_PATH=outputs/senna DATA=senna_nusc_val.jsonl IMAGE_DATA=nuscenes sh scripts/visualize.sh --limit 40 --describe
# With --predictions FILE, written by `senna evaluate`, no model is needed.
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
find_interpreter
exec "$PYTHON" -m senna launch visualize "$@"
