# Sourced by the training scripts: turns their environment into one `senna train`, on one process or many.
#
#   NUM_GPUS      processes on this machine (default: the GPUs seen, CUDA_VISIBLE_DEVICES obeyed; with PRESET=tiny: 1)
#   HOSTFILE      many machines through DeepSpeed's launcher; or
#   NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT   many machines through torchrun, this script started on each
#   PRESET=tiny   a CPU run: the small models and pictures the project makes stand for whatever is not set
#   DEEPSPEED_CONFIG   a file of configs/deepspeed or your own; default: for more than one process the stage's own. With one
#                      process DeepSpeed is used only where this is set (zero3_offload.json: a large model on one card)
#   PYTHON        the interpreter (default: .venv of this repository, else python3)
# With --print (or --help) among the flags nothing is trained, made or demanded: NUM_GPUS=8 sh ... --print shows a run on eight
# GPUs wherever one is.

say_and_stop() {
    echo "$*" >&2
    exit 2
}

find_interpreter() {
    if [ -z "${PYTHON:-}" ]; then
        PYTHON=$ROOT/.venv/bin/python
        [ -x "$PYTHON" ] || PYTHON=python3
    fi
    export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
}

count_gpus() {
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        case "$CUDA_VISIBLE_DEVICES" in
        "" | -1) echo 0 ;;
        *) echo "$CUDA_VISIBLE_DEVICES" | awk -F, '{ print NF }' ;;
        esac
    elif command -v nvidia-smi >/dev/null 2>&1; then
        nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true
    else
        echo 0
    fi
}

# Whether the flags ask a question only.
only_asks() {
    for flag in "$@"; do
        case "$flag" in
        --print | --help | -h | --help_all) return 0 ;;
        esac
    done
    return 1
}

# The stage that the flags ask for (--stage 3, --stage=3), else 2.
stage_of() {
    stage=2
    while [ $# -gt 0 ]; do
        case "$1" in
        --stage=*) stage=${1#--stage=} ;;
        --stage) stage=${2:-} ;;
        esac
        shift
    done
    echo "$stage"
}

# launch_driving OUT_SUFFIX DEEPSPEED OVERLAY [flags ...]: stages 2 and 3
launch_driving() {
    out_suffix=$1
    deepspeed=$2
    overlay=$3
    shift 3
    case "$(stage_of "$@")" in
    2) launch stage2_driving.yaml "stage2$out_suffix" "$deepspeed" "$overlay" "$@" ;;
    3) launch stage3_planning.yaml "stage3$out_suffix" "$deepspeed" "$overlay" "$@" ;;
    *) say_and_stop "--stage $(stage_of "$@"): this script trains stage 2 or 3; stage 1 is train_tools/pretrain_senna_llava.sh" ;;
    esac
}

# Whether MODEL_PATH is a language model alone, for which a tower must be named.
is_bare_llm() {
    [ "$MODEL_PATH" = "$embedded/llm" ] ||
        { [ -f "$MODEL_PATH/config.json" ] && ! grep -q '"mm_vision_tower"' "$MODEL_PATH/config.json"; }
}

# MODEL_PATH from the folders of earlier runs, where it is not set.
use_first_finished() {
    for before in "$@"; do
        [ -n "${MODEL_PATH:-}" ] || [ ! -f "$before/config.json" ] || MODEL_PATH=$before
    done
}

# A part of the embedded default, which takes no time where it is there already.
embed() {
    [ -n "$asks" ] || "$PYTHON" -m senna "$@" || exit $?
}

# The small models and data, for whatever of MODEL_PATH, VISION_TOWER and DATA is not set: pictures with captions for stage 1,
# for stages 2 and 3 the driving world, converted as nuScenes is.
use_embedded_default() {
    embedded=${SENNA_EMBEDDED:-$ROOT/outputs/embedded}
    case "$1" in
    stage3*) use_first_finished "$ROOT/outputs/stage2" "$ROOT/outputs/stage2_lora" "$ROOT/outputs/stage2_qlora" ;;
    esac
    case "$1" in
    stage1*) ;;
    *) use_first_finished "$ROOT/outputs/stage1" "$ROOT/outputs/quickstart/stage1" ;;
    esac
    if [ -z "${MODEL_PATH:-}" ] || { [ -z "${VISION_TOWER:-}" ] && is_bare_llm; } || [ "${DATA:-}$1" = stage1_pretrain.yaml ]; then
        embed synthesize --stage1 --out "$embedded"
    fi
    if [ -z "${DATA:-}" ] && [ "$1" = stage1_pretrain.yaml ]; then
        DATA=$embedded/pictures/captions.json
        IMAGE_DATA=$embedded/pictures/images
    elif [ -z "${DATA:-}" ]; then
        # 32 scenes to learn from and 8 held out (senna_nusc_val.jsonl)
        embed synthesize --scenes 40 --out "$embedded"
        embed convert --nuscenes "$embedded/nuscenes" --version v1.0-trainval --out "$embedded/qa"
        DATA=$embedded/qa/senna_nusc_train.jsonl
        case "$1" in
        stage2*) DATA=$DATA:0.4 ;; # of the frames: enough to learn what is asked, in less than half of the time
        esac
        IMAGE_DATA=$embedded/nuscenes
    fi
    MODEL_PATH=${MODEL_PATH:-$embedded/llm}
    if [ -z "${VISION_TOWER:-}" ] && is_bare_llm; then
        VISION_TOWER=$embedded/clip
        adapter_tokens=16 # its pictures have 196 patches
    fi
}

# launch CONFIG OUT_NAME DEEPSPEED OVERLAY [flags of senna train ...]: DEEPSPEED is what several processes run under,
# OVERLAY a further file of configs/ or ""
launch() {
    config=$1
    out_name=$2
    deepspeed=$3
    overlay=$4
    shift 4
    find_interpreter
    asks=
    ! only_asks "$@" || asks=yes
    case "${PRESET:-}" in
    "")
        NUM_GPUS=${NUM_GPUS:-$(count_gpus)}
        if [ "${NUM_GPUS:-0}" -lt 1 ] && [ -z "${HOSTFILE:-}$asks" ]; then
            say_and_stop "no GPU is seen here (nvidia-smi, CUDA_VISIBLE_DEVICES). Two ways on: run on a machine with a GPU" \
                "(NUM_GPUS=N says how many where they are not seen), or PRESET=tiny sh $0 for a small run on the CPU"
        fi
        ;;
    tiny)
        # Threads that spin while they wait for each other are several times slower where anything else runs.
        export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
        # For so small a model a second thread gains nothing, and takes the core on which images are read.
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
        use_embedded_default "$config"
        [ -z "${adapter_tokens:-}" ] || set -- --mm_adapter_tokens "$adapter_tokens" "$@"
        NUM_GPUS=${NUM_GPUS:-1}
        set -- --config "$ROOT/configs/presets/tiny_$config" "$@"
        ;;
    *) say_and_stop "PRESET=$PRESET is not known; there is PRESET=tiny" ;;
    esac
    [ -z "$overlay" ] || set -- --config "$ROOT/configs/$overlay" "$@"
    if [ -n "${DEEPSPEED_CONFIG:-}${HOSTFILE:-}" ] || [ "${NNODES:-1}" -gt 1 ] || [ "$NUM_GPUS" -gt 1 ]; then
        set -- --deepspeed "${DEEPSPEED_CONFIG:-$ROOT/configs/deepspeed/$deepspeed}" "$@"
    fi
    [ -n "${MODEL_PATH:-}$asks" ] || say_and_stop "MODEL_PATH is not set: the model to start from, a folder or a hub name"
    [ -n "${DATA:-}$asks" ] || say_and_stop "DATA is not set: the records to train on, a JSON or JSON Lines file"
    # Before the flags that were given, so that those win.
    [ -z "${VISION_TOWER:-}" ] || set -- --vision_tower "$VISION_TOWER" "$@"
    [ -z "${IMAGE_DATA:-}" ] || set -- --image_folder "$IMAGE_DATA" "$@"
    [ -z "${DATA:-}" ] || set -- --data_path "$DATA" "$@"
    [ -z "${MODEL_PATH:-}" ] || set -- --model_name_or_path "$MODEL_PATH" "$@"
    set -- train --config "$ROOT/configs/$config" --output_dir "${OUT_DIR:-$ROOT/outputs/$out_name}" "$@"
    [ -z "$asks" ] || exec "$PYTHON" -m senna "$@"
    start "$@"
}

# Start `senna ARGUMENTS` on one process, or on many with DeepSpeed.
start() {
    if [ -n "${HOSTFILE:-}" ]; then
        [ -f "$HOSTFILE" ] || say_and_stop "HOSTFILE=$HOSTFILE: no such file"
        exec "$PYTHON" -m deepspeed.launcher.runner --hostfile "$HOSTFILE" --module senna "$@"
    fi
    if [ "${NNODES:-1}" -gt 1 ]; then
        [ -n "${MASTER_ADDR:-}" ] || say_and_stop "NNODES=$NNODES needs MASTER_ADDR (the first machine's address) and NODE_RANK"
        exec "$PYTHON" -m torch.distributed.run --nnodes "$NNODES" --node_rank "${NODE_RANK:?NODE_RANK is not set}" \
            --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}" --nproc_per_node "$NUM_GPUS" \
            -m senna "$@"
    fi
    if [ "$NUM_GPUS" -gt 1 ]; then
        exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$NUM_GPUS" \
            -m senna "$@"
    fi
    exec "$PYTHON" -m senna "$@"
}
