# Sourced by the scripts of this folder: makes $ROOT/.venv with the tested versions, once, and sets PYTHON to its interpreter.
# usage: . environment.sh; prepare_environment EXTRAS      (ROOT must be set; EXTRAS like "dev" or "")

find_python() {
    for candidate in python3 python3.12 python3.11 python3.10; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "Python 3.10, 3.11 or 3.12 is needed, and none of python3, python3.12, python3.11, python3.10 is one" >&2
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
        echo "making $venv"
        "$base" -m venv "$venv" || { echo "$base cannot make a virtual environment (Debian: apt-get install python3-venv)" >&2; return 2; }
    fi
    echo "installing Senna and what it needs (minutes the first time)"
    # setuptools first and no build isolation: DeepSpeed comes as source, and would be built against another torch.
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -c "$ROOT/constraints.txt" pip setuptools wheel
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -c "$ROOT/constraints.txt" torch
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-build-isolation -c "$ROOT/constraints.txt" -e "$ROOT${1:+[$1]}"
    echo "$wanted" >>"$stamp"
}
