#!/bin/sh
# Pictures of what a model says of a drive, one a key frame, and a film a scene, into OUT_DIR.
#
#   MODEL_PATH   the model: a folder or hub name, or a LoRA folder
#   DATA         the records to show, a JSON or JSON Lines file
#   IMAGE_DATA   where their image paths start (default: beside DATA)
#   OUT_DIR      default outputs/pictures in this repository
#   PYTHON       the interpreter (default: .venv of this repository, else python3)
# Stopped, it goes on where it stood when started again. Every further argument is a flag of `senna visualize`:
#   MODEL_PATH=outputs/senna DATA=senna_nusc_val.jsonl IMAGE_DATA=nuscenes sh scripts/visualize.sh --limit 40 --describe
# With --predictions FILE, of `senna evaluate`, no model is needed.
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/train_tools/launch.sh"
find_interpreter
[ -n "${DATA:-}" ] || say_and_stop "DATA is not set: the records to show, a JSON or JSON Lines file"
set -- visualize --data "$DATA" --out "${OUT_DIR:-$ROOT/outputs/pictures}" "$@"
[ -z "${MODEL_PATH:-}" ] || set -- "$@" --model "$MODEL_PATH"
[ -z "${IMAGE_DATA:-}" ] || set -- "$@" --image-folder "$IMAGE_DATA"
exec "$PYTHON" -m senna "$@"
