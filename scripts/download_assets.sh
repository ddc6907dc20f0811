#!/bin/sh
# Download models and data from the hub, each at a fixed commit and checked by its hash. An interrupted download continues.
#
#   OUT_DIR       default outputs/assets in this repository
#   HF_ENDPOINT   a mirror of the hub
#   HF_TOKEN      for a repository that requires an account; sent to the hub itself only, unless you add --send-token
# Every argument is a flag of `senna download`. Without arguments: Vicuna and CLIP, 15 GB, which stage 1 starts from. Standard
# output has only the lines that set the variables of the training scripts, or clear them where the download fails:
#   exports=$(sh scripts/download_assets.sh --preset 7b pretrain-data) && eval "$exports" &&
#   sh train_tools/pretrain_senna_llava.sh
set -eu
# Until `senna download` runs, which prints these lines itself
trap 'code=$?; [ "$code" = 0 ] || printf "%s\n" "unset MODEL_PATH VISION_TOWER DATA IMAGE_DATA" false' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
prepare_environment "" >&2
exec "$PYTHON" -m senna download "--out=${OUT_DIR:-$ROOT/outputs/assets}" "$@"
