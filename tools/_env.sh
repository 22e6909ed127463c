# Sourced by the tools beside it: makes a virtual environment and installs the project into it, once per change.
#
#   wdkm_python                 sets PYTHON to a Python >= 3.10 that can make an environment
#   wdkm_pythons                prints the interpreters to look at, where more than one is wanted
#   wdkm_need_compiler PYTHON   exits 2 with one line if extension modules cannot be built for it
#   wdkm_install FOLDER EXTRA.. makes FOLDER (a virtual environment) and installs the project with these extras
#
# The project is installed from a copy of its sources, so that neither an extension built in place nor a stale
# build folder can get into the environment, and never editable: what is tested is what a user gets.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
tool=${0##*/}
# What the package is built from. A change in any of it means a new installation.
sources=(wdkmutex_shm daemon pyproject.toml setup.py MANIFEST.in README.md LICENSE)

# The tests of the core, on anonymous mutexes; the part of the suite that is run on other interpreters and builds too.
core=(core/test_every_kind objects/test_handles core/test_guard core/test_guard_elsewhere core/test_mutex_kmutex
    core/test_section core/test_exclusion core/test_types core/test_codec_numbers core/test_codec_properties
    core/test_payload_growth core/test_peek core/test_box core/test_irql core/test_irql_event_loop
    wait/test_task_queue wait/test_task_queue_edges wait/test_task_queue_reentered wait/test_task_queue_waiting
    wait/test_task_queue_loops pool/test_pool core/test_segment pool/test_sweep test_errors)

unset PYTHONPATH PYTHONHOME

wdkm_fail() {
    printf '%s: %s\n' "$tool" "$1" >&2
    exit 2
}

wdkm_is_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

wdkm_python() {
    local candidate found=
    if [[ -n ${PYTHON:-} ]]; then
        wdkm_is_python "$PYTHON" || wdkm_fail "PYTHON=$PYTHON is not a Python >= 3.10; name one that is"
        found=$PYTHON
    else
        for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
            if wdkm_is_python "$candidate"; then
                found=$candidate
                break
            fi
        done
        [[ -n $found ]] || wdkm_fail "no Python >= 3.10 found; install one (apt install python3 python3-venv) or set PYTHON=/path/to/python3"
    fi
    # A shim of a version manager becomes the interpreter behind it.
    PYTHON=$("$found" -c 'import sys; print(sys.executable)')
    "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        wdkm_fail "$PYTHON cannot make virtual environments: apt install python3-venv (or set PYTHON to another Python)"
}

# The interpreters of this machine that may be a CPython, one a line: of pyenv, of uv, and pythonX.Y on PATH.
wdkm_pythons() {
    local path
    for path in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3 \
        "${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/uv/python}"/cpython-3.*/bin/python3; do
        if [[ -x $path ]]; then printf '%s\n' "$path"; fi
    done
    compgen -c python3. | grep -xE 'python3\.[0-9]+' | sort -u || true
}

wdkm_need_compiler() {
    local python=$1 compiler include
    compiler=${CC:-$("$python" -c 'import sysconfig; print((sysconfig.get_config_var("CC") or "cc").split()[0])')}
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    local remedy="apt install gcc libc6-dev python3-dev (Fedora: dnf install gcc glibc-devel python3-devel)"
    # shellcheck disable=SC2086  # CC may carry options
    set -- $compiler
    command -v "$1" >/dev/null 2>&1 || wdkm_fail "no C compiler ($1) found: $remedy"
    [[ -e $include/Python.h ]] || wdkm_fail "the headers of $python are missing ($include/Python.h): $remedy"
    printf '#include <Python.h>\n#include <pthread.h>\n' | "$@" -I"$include" -E -x c - >/dev/null 2>&1 ||
        wdkm_fail "$1 cannot compile against $include/Python.h: $remedy"
}

# One word that differs whenever an installation made earlier would differ from one made now.
wdkm_stamp() {
    local present=() entry
    for entry in "${sources[@]}"; do
        if [[ -e $root/$entry ]]; then present+=("$entry"); fi
    done
    {
        wdkm_identity "$PYTHON"
        printf '%s\n' "${WDKMUTEX_SANITIZE:-}" "${WDKMUTEX_PLANTS:-}" "${WDKMUTEX_QUICK_BUILD:-}"
        (cd -- "$root" && find "${present[@]}" -type f ! -name '*.so' ! -name '*.c' ! -name '*.pyc' \
            ! -path '*.egg-info/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
    } | sha256sum | cut -d' ' -f1
}

wdkm_identity() {
    "$1" -c 'import sys; print(sys.version_info[:3], sys.base_prefix)'
}

wdkm_pip() {
    "$1/bin/python" -m pip --quiet --disable-pip-version-check --no-input "${@:2}"
}

# Builds FOLDER/.wheel/*.whl from a copy of the sources.
wdkm_wheel() (
    folder=$1
    copy=$(mktemp -d)
    trap 'rm -rf -- "$copy"' EXIT
    for entry in "${sources[@]}"; do
        if [[ -e $root/$entry ]]; then printf '%s\0' "$entry"; fi
    done | tar -C "$root" --exclude='*.so' --exclude='*.c' --exclude=__pycache__ --exclude='*.egg-info' \
        --null -T - -cf - | tar -C "$copy" -xf -
    rm -rf -- "$folder/.wheel"
    # The extension modules are compiled side by side, which halves the time on two cores.
    printf '[build_ext]\nparallel = %s\n' "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)" >"$copy/parallel.cfg"
    export DIST_EXTRA_CONFIG=$copy/parallel.cfg
    wdkm_pip "$folder" wheel --no-deps -w "$folder/.wheel" "$copy"
)

wdkm_install() {
    local folder=$1 stamp extra missing=() wheel
    shift
    stamp=$(wdkm_stamp)
    # Two tools started at once must not install into one environment: the lock is on this very file.
    exec 9<"${BASH_SOURCE[0]}"
    if command -v flock >/dev/null 2>&1; then flock 9; fi
    if ! cmp -s <(wdkm_identity "$folder/bin/python" 2>/dev/null) <(wdkm_identity "$PYTHON"); then
        wdkm_need_compiler "$PYTHON"
        printf '%s: making %s with %s\n' "$tool" "$folder" "$("$PYTHON" --version)" >&2
        rm -rf -- "$folder"
        "$PYTHON" -m venv "$folder" 9<&-
    fi
    # .installed holds the stamp of the sources, then the extras that are there already, one a line.
    if [[ $(head -n 1 "$folder/.installed" 2>/dev/null) != "$stamp" ]]; then
        wdkm_need_compiler "$PYTHON"
        printf '%s: building and installing into %s\n' "$tool" "$folder" >&2
        rm -f -- "$folder/.installed"
        wdkm_wheel "$folder" 9<&-
        wdkm_pip "$folder" install --force-reinstall --no-deps "$folder"/.wheel/*.whl 9<&-
        wdkm_pip "$folder" install "$folder"/.wheel/*.whl 9<&-
        printf '%s\n' "$stamp" >"$folder/.installed"
    fi
    for extra in "$@"; do
        grep -qxF -- "$extra" "$folder/.installed" || missing+=("$extra")
    done
    if ((${#missing[@]})); then
        extra=$(IFS=,; printf '%s' "${missing[*]}")
        printf '%s: installing what %s needs into %s\n' "$tool" "$extra" "$folder" >&2
        wheel=$(printf '%s' "$folder"/.wheel/*.whl)
        wdkm_pip "$folder" install "$wheel[$extra]" 9<&-
        printf '%s\n' "${missing[@]}" >>"$folder/.installed"
    fi
    exec 9<&-
}
