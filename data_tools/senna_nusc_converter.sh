#!/bin/sh
# nuScenes -> planning QA: OUT_DIR/senna_nusc_train.jsonl, senna_nusc_val.jsonl, quality.json and quality.html.
#
#   NUSCENES   nuScenes' folder, with samples/ and v1.0-trainval/
#   CANBUS     the folder that holds can_bus/ (default: NUSCENES where it has one; without, speeds come from the poses)
#   OUT_DIR    default outputs/nuscenes_qa in this repository
#   VERSION    default v1.0-trainval; v1.0-mini, v1.0-test
#   PYTHON     the interpreter (default: .venv of this repository, else python3)
# Stopped, it goes on where it stood when started again. Every further argument is a flag of `senna convert`:
#   NUSCENES=/data/nuscenes sh data_tools/senna_nusc_converter.sh --captioner llava --shard 1/8
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/train_tools/launch.sh"
find_interpreter
[ -n "${NUSCENES:-}" ] || say_and_stop "NUSCENES is not set: nuScenes' folder, with samples/ and v1.0-trainval/"
set -- convert --nuscenes "$NUSCENES" --version "${VERSION:-v1.0-trainval}" --out "${OUT_DIR:-$ROOT/outputs/nuscenes_qa}" "$@"
[ -z "${CANBUS:-}" ] || set -- "$@" --canbus "$CANBUS"
exec "$PYTHON" -m senna "$@"
