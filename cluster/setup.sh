#!/usr/bin/env bash
# Makes a machine ready: system packages (FFCV is compiled here), a virtual environment, the locked packages.
# Used by `make setup`; the same script prepares a cluster node. Run again, it takes a second.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
python=${PYTHON:-python3}

missing=()
need() { missing+=("$@"); }
command -v g++ >/dev/null || need g++
if ! command -v pkg-config >/dev/null; then
  need pkg-config libopencv-dev libturbojpeg0-dev
else
  pkg-config --exists opencv4 || need libopencv-dev
  pkg-config --exists libturbojpeg || need libturbojpeg0-dev
fi
command -v "$python" >/dev/null || need python3
header='import os, sysconfig; assert os.path.exists(sysconfig.get_path("include") + "/Python.h")'
"$python" -c "$header" 2>/dev/null || need python3-dev
"$python" -c 'import ensurepip, venv' 2>/dev/null || need python3-venv
[ -z "${MIM_RAY_TEST_POSTGRES:-}" ] || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || need postgresql

if [ ${#missing[@]} -gt 0 ]; then
  line="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  if ! command -v apt-get >/dev/null; then
    echo "setup: these are missing and there is no apt-get here: ${missing[*]}" >&2
    exit 1
  elif [ "$(id -u)" = 0 ]; then
    sh=(sh -c)
  elif sudo -n true 2>/dev/null; then
    sh=(sudo sh -c)
  else
    echo "setup: system packages are missing and apt-get needs root. Run this once, then again what you ran:" >&2
    echo "  sudo sh -c '$line'" >&2
    exit 1
  fi
  echo "setup: $line" >&2
  DEBIAN_FRONTEND=noninteractive "${sh[@]}" "$line" >&2
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: $("$python" --version) found, 3.11 or newer needed: set PYTHON=/path/to/python3.11" >&2
  exit 1
}

stamp=$venv/.ready
wanted=$(cat requirements.lock pyproject.toml cluster/setup.sh | sha256sum)
[ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && exit 0

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null
if ! "$venv/bin/uv" --version >/dev/null 2>&1; then
  sed -n '/^uv==/,/[^\\]$/p' requirements.lock >"$venv/uv.txt"
  "$venv/bin/python" -m pip install --quiet --require-hashes --no-deps -r "$venv/uv.txt"
fi
echo "setup: installing the locked packages into $venv" >&2
# Bytecode is made here, once: where Python may not write it (PYTHONDONTWRITEBYTECODE, an image whose user is not
# root) each of the ten processes that a run on Ray starts would compile thousands of files anew.
"$venv/bin/uv" pip sync --python "$venv/bin/python" --compile-bytecode --require-hashes requirements.lock
"$venv/bin/uv" pip install --python "$venv/bin/python" --no-deps --editable .
echo "$wanted" >"$stamp"
