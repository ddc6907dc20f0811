# Sourced by the scripts. ROOT, the repository, must be set.
#   find_interpreter            set PYTHON: the variable of that name, else the active environment where it has Senna, else .venv
#                               of this repository, else python3; and say which
#   prepare_environment EXTRAS  set PYTHON to the active environment where it has Senna with EXTRAS ("dev", "nuscenes" or ""), else to
#                               $ROOT/.venv, which is made, repaired or remade with the tested versions
#   prepare_environment EXTRAS NAME   set PYTHON to $ROOT/.venv-NAME, with the versions of constraints-NAME.txt where it has one
# SENNA_TORCH chooses the build of torch that prepare_environment installs: auto (default: cuda where there is an NVIDIA card),
# cpu or cuda.

export DS_IGNORE_CUDA_DETECTION="${DS_IGNORE_CUDA_DETECTION:-1}" # without nvcc, DeepSpeed's setup would stop on a GPU machine

find_interpreter() {
    if [ -n "${PYTHON:-}" ]; then
        how="PYTHON"
    elif find_active_environment ""; then
        how="the active environment"
    elif "$ROOT/.venv/bin/python" -c '' 2>/dev/null; then
        PYTHON=$ROOT/.venv/bin/python how=".venv of this repository"
        keep_bytecode
    else
        PYTHON=python3 how="neither the active environment nor .venv has Senna"
    fi
    echo "interpreter: $PYTHON ($how)" >&2
    export PYTHON PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
}

# Let Python store the bytecode of what it imports in .venv, even where an image says that it must not: without, every process compiles
# torch and transformers again, for 15 s.
keep_bytecode() {
    unset PYTHONDONTWRITEBYTECODE
}

# Set PYTHON to the interpreter of the active virtual or conda environment if Senna and the packages of EXTRAS are installed there.
find_active_environment() {
    for folder in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
        [ -n "$folder" ] && [ -x "$folder/bin/python" ] || continue
        [ "$folder" != "$ROOT/.venv" ] || continue # prepare_environment checks it
        if has_senna "$folder/bin/python" "$1"; then
            PYTHON=$folder/bin/python
            return 0
        fi
        echo "the active environment $folder does not have Senna${1:+ with [$1]}; it is not used" >&2
    done
    return 1
}

# Return whether Senna, or what it needs, can be imported by an interpreter. PYTHONPATH and this folder do not count.
has_senna() {
    (cd / && PYTHONPATH='' "$1" -c '
import sys
from importlib.util import find_spec
extras = {"dev": ("pytest", "ruff", "importlinter", "nuscenes"), "nuscenes": ("nuscenes",), "oldest": ("pytest", "bitsandbytes")}
needed = extras.get(sys.argv[1], ())
own = find_spec("senna") or (find_spec("torch") and find_spec("transformers"))
sys.exit(not (own and all(find_spec(name) for name in needed)))' "$2" 2>/dev/null)
}

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null
}

find_python() {
    for candidate in python3 python3.12 python3.11 python3.10; do
        if command -v "$candidate" >/dev/null 2>&1 && is_supported "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    echo "Python 3.10, 3.11 or 3.12 is required; none of python3, python3.12, python3.11 and python3.10 is one of them" >&2
    return 2
}

prepare_environment() {
    case ${SENNA_TORCH:-auto} in
    auto | cpu | cuda) ;;
    *)
        echo "SENNA_TORCH=$SENNA_TORCH is unknown: use auto, cpu or cuda" >&2
        return 2
        ;;
    esac
    venv=$ROOT/.venv${2:+-$2} constraints=$ROOT/constraints.txt older=
    if [ -n "${2:-}" ]; then
        older=$ROOT/constraints-$2.txt constraints=$venv/constraints.txt
    elif find_active_environment "$1"; then
        echo "interpreter: $PYTHON (the active environment)"
        return
    fi
    PYTHON=$venv/bin/python
    keep_bytecode
    stamp=$venv/.senna-installed
    chosen=$(echo "${SENNA_TORCH:-auto}" | sed s/auto//)
    wanted="$1 $chosen$(cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" ${older:+"$older"} | cksum)"
    export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" # a .venv that was copied has another checkout installed
    if [ -f "$stamp" ] && [ ! -e "$venv/.senna-installing" ] && grep -qxF "$wanted" "$stamp" && has_senna "$PYTHON" "$1"; then
        return
    fi
    make_environment || return
    echo "interpreter: $PYTHON"
    : >"$venv/.senna-installing" || { echo "$venv cannot be written" >&2; return 2; }
    [ -z "$older" ] || merge_constraints "$older" >"$constraints" || return
    code=0
    install_packages "$1" || code=$?
    rm -f "$venv/.senna-installing" # it stays where this shell is killed
    if [ "$code" != 0 ]; then
        echo "the installation into $venv failed; the same command tries again" >&2
        return "$code"
    fi
    echo "$wanted" >>"$stamp"
}

# Print a file of constraints, and the lines of constraints.txt for the packages that it does not name.
merge_constraints() {
    awk -F '[=<> ;]' 'NR == FNR { named[$1]; print; next } !($1 in named)' "$1" "$ROOT/constraints.txt"
}

# Make $venv, or repair or remake what is there.
make_environment() {
    [ -e "$venv" ] || [ -L "$venv" ] || { create_environment; return; }
    reason=$(find_fault)
    case $reason in
    "") return ;;
    "it has no pip")
        if "$PYTHON" -m ensurepip --upgrade >/dev/null 2>&1 && "$PYTHON" -m pip --version >/dev/null 2>&1; then
            echo "$venv had no pip; it was added"
            return
        fi
        ;;
    esac
    if [ -f "$venv/pyvenv.cfg" ] && [ ! -L "$venv" ]; then
        echo "remaking $venv: $reason"
        create_environment --clear
    else
        number=1
        while [ -e "$venv.old$number" ] || [ -L "$venv.old$number" ]; do number=$((number + 1)); done
        echo "$venv is no environment of this repository ($reason); it is kept as ${venv##*/}.old$number"
        mv "$venv" "$venv.old$number" || return 2
        create_environment
    fi
}

# Print why $venv cannot be used; nothing if it can be.
find_fault() {
    if [ ! -d "$venv" ]; then
        echo "it is no folder"
    elif [ -e "$venv/.senna-installing" ]; then
        echo "an installation was interrupted"
    elif ! "$PYTHON" -c '' 2>/dev/null; then
        echo "its interpreter does not run"
    elif ! "$PYTHON" -c 'import os, sys; sys.exit(not os.path.samefile(sys.prefix, sys.argv[1]))' "$venv" 2>/dev/null; then
        echo "its interpreter installs into another environment"
    elif ! is_supported "$PYTHON"; then
        echo "its Python is not 3.10, 3.11 or 3.12"
    elif ! PYTHONPATH='' "$PYTHON" -c 'import pip' 2>/dev/null; then
        echo "it has no pip"
    else
        # A package is incomplete without RECORD, which is written last, or without a file that it lists.
        PYTHONPATH='' "$PYTHON" - <<'END'
import csv, pathlib, sysconfig
site = pathlib.Path(sysconfig.get_paths()["purelib"])
for info in sorted(site.glob("*.dist-info")):
    record = info / "RECORD"
    names = [row[0] for row in csv.reader(record.open(encoding="utf-8")) if row] if record.is_file() else []
    expected = [name for name in names if not name.startswith(("..", "/")) and not name.endswith(".pyc")]
    if not names or not all((site / name).exists() for name in expected):
        print(f"{info.name.removesuffix('.dist-info')} is installed in part")
        break
END
    fi
}

create_environment() {
    base=$(find_python) || return
    echo "creating $venv with $base"
    "$base" -m venv "$@" "$venv" && return
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --seed --clear --python "$base" "$venv" && return
    fi
    echo "$base cannot create a virtual environment (Debian: apt-get install python3-venv)" >&2
    return 2
}

install_packages() {
    echo "installing Senna and its dependencies into $venv (minutes the first time; about 0.5 GB besides torch)"
    # setuptools first and no build isolation: DeepSpeed comes as source, and would otherwise be built against another torch.
    run_pip --quiet pip setuptools wheel &&
        install_torch &&
        run_pip --no-build-isolation -e "$ROOT${1:+[$1]}"
}

# Most of a package is never imported, so nothing is compiled now; Python compiles a module at its first import.
run_pip() {
    "$PYTHON" -m pip install --disable-pip-version-check --no-compile -c "$constraints" "$@"
}

has_card() {
    [ -e /dev/nvidia0 ] || [ -e /dev/dxg ] || nvidia-smi -L 2>/dev/null | grep -q '^GPU'
}

# Install torch. uv finds the build for this machine; pip takes the one that its index serves.
install_torch() {
    asked=${SENNA_TORCH:-auto} kind=$asked
    if [ "$kind" = auto ]; then
        if has_card; then kind=cuda; else kind=cpu; fi
    fi
    version=$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' "$constraints")
    installed=$(PYTHONPATH='' "$PYTHON" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || :)
    case $installed in
    "$version+cpu") [ "$asked" = cuda ] || return 0 ;;
    "$version" | "$version+"*) [ "$asked" = cpu ] || return 0 ;;
    esac
    if [ "$kind" = cpu ]; then
        echo "downloading torch $version for the CPU: about 0.2 GB (no NVIDIA card, or SENNA_TORCH=cpu)"
        backend=cpu
    else
        echo "downloading torch $version with CUDA: about 3 GB (SENNA_TORCH=cpu takes the CPU build)"
        backend=auto
    fi
    uv=$(command -v uv) || { run_pip --quiet uv >/dev/null 2>&1 && uv=$venv/bin/uv; } || uv=
    if [ -n "$uv" ] && UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-30}" "$uv" pip install --python "$PYTHON" --no-deps --reinstall-package torch \
        --torch-backend "$backend" "torch==$version"; then
        return
    fi
    echo "uv could not fetch that build; pip takes the one of its index, which may hold CUDA: up to 3 GB"
    run_pip torch
}
