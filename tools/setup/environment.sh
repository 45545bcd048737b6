#!/usr/bin/env bash
# Makes or completes the Python environment: environment.sh demo|generation|segmentation|test
#   VENV    folder of the environment            (default .venv)
#   WHEELS  folder that keeps compiled mmcv      (default ~/.cache/mmvisionllama/wheels)
#   PYTHON  interpreter to start from            (default python3)
#   LINE    onedl (default) or openmmlab: whose mmengine, mmcv, mmpretrain, mmdet and mmseg; latest: the newest of
#           everything, without compiled operators and mmdet. A file in requirements/LINE goes before the file of that
#           name in requirements
# Every finished step leaves a stamp named after the hash of its requirement file, so repeating is cheap.
set -euo pipefail
cd "$(dirname "$0")/../.."

stage=${1:-demo}
case $stage in demo | generation | segmentation | test) ;; *) echo "unknown stage $stage" >&2; exit 2 ;; esac
LINE=${LINE:-onedl}
case $LINE in onedl) VENV=${VENV:-.venv} ;; openmmlab | latest) VENV=${VENV:-.venv-$LINE} ;; *) echo "unknown LINE $LINE: onedl, openmmlab or latest" >&2; exit 2 ;; esac
PYTHON=${PYTHON:-python3}
WHEELS=${WHEELS:-${XDG_CACHE_HOME:-$HOME/.cache}/mmvisionllama/wheels}

say() { printf '\n==> %s\n' "$*"; }
die() { printf '\nERROR: %s\n' "$*" >&2; exit 1; }

command -v "$PYTHON" >/dev/null || die "no $PYTHON found: install Python 3.10 or newer, or give PYTHON=/path/to/python"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "$("$PYTHON" --version) is too old: Python 3.10 or newer is needed (give PYTHON=/path/to/python)"

need_disk() { # need_disk GIGABYTES FOLDER
    mkdir -p "$2"
    local free
    free=$(df -Pk "$2" | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge "$1" ] || die "$2 has $free GB free and this step needs $1 GB: free some space or set VENV/WHEELS to another disk"
}

# without pip: an interpreter is there before python's venv module fails or is interrupted
if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    need_disk 9 "$(dirname "$VENV")"
    say "Making the environment in $VENV"
    # over what is there, so that nothing of an environment made by other means is lost
    "$PYTHON" -m venv "$VENV" || die "python's venv module failed: on Debian, apt-get install python3-venv"
fi
python=$VENV/bin/python
version=$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])')

pip_install() { "$python" -m pip install --disable-pip-version-check --quiet --progress-bar off "$@"; }
list() { if [ -e "requirements/$LINE/$1.txt" ]; then echo "requirements/$LINE/$1.txt"; else echo "requirements/$1.txt"; fi; }
step() { # step NAME MESSAGE ARGS...: installs the requirement file NAME once
    local name=$1 message=$2 file stamp
    shift 2
    file=$(list "$name")
    stamp=$VENV/.stamp-$name-$(sha256sum "$file" | cut -c1-12)
    [ -e "$stamp" ] && return
    say "$message"
    # torch's pins hold: no other list may bring another torch
    pip_install "$@" -r "$file" -c "$(list torch)" || die "installing $file failed: see pip's message above"
    # what an earlier list has installed is no longer as it was
    rm -f "$VENV/.stamp-$name"-*
    touch "$stamp"
}
has_mmcv() { "$python" -c 'import mmcv, sys; pin = sys.argv[1]; sys.exit("==" in pin and not pin.endswith("==" + mmcv.__version__))' "$mmcv_pin" 2>/dev/null; }
has_operators() { "$python" -c 'import mmcv.ops' 2>/dev/null; }

mmcv_pin=$(grep -v '^#' "$(list mmcv)")
torch_pin=$(grep '^torch==' "$(list torch)" | cut -d= -f3 || true)

step torch "Installing PyTorch $torch_pin (several GB to fetch: one to five minutes)"
step demo "Installing mmengine, mmpretrain and the rest of the demo (about 20 seconds)"

wheel_folder=$WHEELS/$mmcv_pin-torch$torch_pin-py$version
# OpenMMLab's mmsegmentation does not import without operators
case $LINE-$stage in
latest-*) operators=no ;;
*-test | openmmlab-segmentation) operators=yes ;;
*) operators=no ;;
esac
if [ $operators = no ] && ! has_mmcv; then
    say "Installing mmcv without compiled operators (seconds; make test adds them, but LINE=latest)"
    if [ "$LINE" = openmmlab ]; then
        # mmcv 2.1.0 is an archive that compiles next to torch, or fails where pip isolates the build; this wheel is the
        # same without operators
        lite=${mmcv_pin/mmcv==/mmcv-lite==}
        pip_install --no-deps "$lite" || die "installing $lite failed: see pip's message above"
    else
        pip_install --no-cache-dir --no-deps -r "$(list mmcv)" || die "installing $mmcv_pin failed: see pip's message above"
    fi
fi

case $stage in
generation | segmentation) step "$stage" "Installing what $stage needs (about 20 seconds)" ;;
esac
if [ "$stage" = test ]; then
    step generation "Installing what generation needs (about 20 seconds)"
    step segmentation "Installing mmsegmentation (about 10 seconds)"
    step test "Installing mmdetection and the test tools (about a minute)"
fi

if [ $operators = yes ] && ! { has_operators && has_mmcv; }; then
    if ! ls "$wheel_folder"/*.whl >/dev/null 2>&1; then
        command -v g++ >/dev/null || die "no C++ compiler found and mmdet and OpenMMLab's mmsegmentation need mmcv's compiled operators: on Debian, apt-get install g++"
        "$python" -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(os.path.join(s.get_paths()["include"], "Python.h")))' ||
            die "Python.h is missing and mmcv's operators cannot be compiled: on Debian, apt-get install python3-dev"
        need_disk 3 "$WHEELS"
        say "Compiling mmcv's operators: 10 to 15 minutes on two cores, once; the wheel is kept in $wheel_folder"
        build=$(mktemp -d)
        trap 'rm -rf "$build"' EXIT
        # with a GPU in sight mmcv compiles for it, and fails without CUDA's compiler
        if ! command -v nvcc >/dev/null && ! [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
            hidden=yes
            echo "    for CPUs, since there is no nvcc: mmdet will not run on a GPU in this environment"
        fi
        ([ -z "${hidden:-}" ] || export CUDA_VISIBLE_DEVICES=
            PATH="$(cd "$VENV/bin" && pwd):$PATH" MAX_JOBS=${MAX_JOBS:-$(nproc)} "$python" -m pip wheel -v --disable-pip-version-check --no-build-isolation \
            --no-cache-dir --no-deps -w "$build" "$mmcv_pin" >"$build/log" 2>&1) &
        job=$!
        while kill -0 $job 2>/dev/null; do
            for _ in $(seq 30); do kill -0 $job 2>/dev/null || break; sleep 1; done
            printf '    %s  %s\n' "$(date +%T)" "$(grep -oE '\[[0-9]+/[0-9]+\]' "$build/log" | tail -n 1 || true)"
        done
        wait $job || { tail -n 30 "$build/log" >&2; die "compiling mmcv failed: the end of its log is above"; }
        mkdir -p "$wheel_folder"
        mv "$build"/*.whl "$wheel_folder/"
    fi
    say "Installing mmcv with compiled operators from $wheel_folder"
    # of another name, and in the same folder
    [ "$LINE" != openmmlab ] || "$python" -m pip uninstall --quiet --yes mmcv-lite 2>/dev/null
    pip_install --force-reinstall --no-deps "$wheel_folder"/*.whl
    has_operators || die "mmcv's operators do not import: delete $wheel_folder and repeat"
fi

if ! "$python" -c 'import cv2' 2>/dev/null; then
    # another package brought the OpenCV build that needs libGL
    pip_install --force-reinstall --no-deps "$(grep '^opencv-python-headless' "$(list demo)")"
    "$python" -c 'import cv2' || die "OpenCV does not import: see its message above"
fi

here=$PWD/mmvisionllama/__init__.py
absolute=$(cd "$VENV/bin" && pwd)/python
installed=$(cd / && "$absolute" -c 'import importlib.util as u; spec = u.find_spec("mmvisionllama"); print(spec and spec.origin)')
if [ "$installed" != "$here" ]; then
    say "Installing mmvisionllama from this folder"
    pip_install --no-deps --no-build-isolation -e . || die "installing mmvisionllama failed: see pip's message above"
fi
