# Sourced by the scripts. ROOT, the repository, must be set.
#   find_interpreter            set PYTHON: the variable of that name, else .venv of this repository, else python3
#   prepare_environment EXTRAS  create $ROOT/.venv with the tested versions, once, and set PYTHON; EXTRAS like "dev" or ""

find_interpreter() {
    if [ -z "${PYTHON:-}" ]; then
        PYTHON=$ROOT/.venv/bin/python
        [ -x "$PYTHON" ] || PYTHON=python3
    fi
    export PYTHON PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
}

find_python() {
    for candidate in python3 python3.12 python3.11 python3.10; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "Python 3.10, 3.11 or 3.12 is required; none of python3, python3.12, python3.11 and python3.10 is one of them" >&2
    return 2
}

prepare_environment() {
    venv=$ROOT/.venv
    PYTHON=$venv/bin/python
    wanted="$1 $(cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" | cksum)"
    stamp=$venv/.senna-installed
    if [ -f "$stamp" ] && grep -qxF "$wanted" "$stamp"; then
        return
    fi
    base=$(find_python)
    if [ ! -x "$PYTHON" ]; then
        echo "creating $venv"
        "$base" -m venv "$venv" || { echo "$base cannot create a virtual environment (Debian: apt-get install python3-venv)" >&2; return 2; }
    fi
    echo "installing Senna and its dependencies (this takes minutes the first time)"
    # setuptools first and no build isolation: DeepSpeed comes as source, and would otherwise be built against another torch.
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -c "$ROOT/constraints.txt" pip setuptools wheel
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -c "$ROOT/constraints.txt" torch
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-build-isolation -c "$ROOT/constraints.txt" -e "$ROOT${1:+[$1]}"
    echo "$wanted" >>"$stamp"
}
