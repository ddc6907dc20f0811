#!/bin/sh
# nuScenes to planning QA: OUT_DIR/senna_nusc_train.jsonl, senna_nusc_val.jsonl, quality.json and quality.html.
#
#   NUSCENES   the nuScenes folder, with samples/ and v1.0-trainval/
#   CANBUS     the folder that holds can_bus/ (default: NUSCENES where it has one; otherwise speeds come from the poses)
#   OUT_DIR    default outputs/nuscenes_qa in this repository
#   VERSION    default v1.0-trainval; v1.0-mini, v1.0-test
#   PYTHON     the interpreter (default: .venv of this repository, else python3)
# To continue an interrupted run, run the same command again. Every further argument is a flag of `senna convert`:
#   NUSCENES=/data/nuscenes sh data_tools/senna_nusc_converter.sh --captioner llava --ray   # a captioner on each GPU
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
find_interpreter
exec "$PYTHON" -m senna launch convert "$@"
