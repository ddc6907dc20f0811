#!/bin/sh
# Models and data from the hub, each at a fixed commit and checked by its hash; stopped, it goes on when started again.
#
#   OUT_DIR       default outputs/assets in this repository
#   HF_ENDPOINT   a mirror of the hub
#   HF_TOKEN      for a repository that asks for an account
# Every argument is a flag of `senna download`. Without one: Vicuna and CLIP, 15 GB, what stage 1 starts from. It prints the
# lines that the training scripts need, and only those on standard output:
#   eval "$(sh scripts/download_assets.sh --preset 7b pretrain-data)"
#   sh train_tools/pretrain_senna_llava.sh
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
prepare_environment "" >&2
exec "$PYTHON" -m senna download --out "${OUT_DIR:-$ROOT/outputs/assets}" "$@"
