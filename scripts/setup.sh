#!/usr/bin/env bash
# Makes .venv: CPython 3.10, the locked dependencies, this project. Safe to run again: it returns at once
# when nothing it depends on has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
UV_VERSION=0.13.9

stamp=.venv/.made-from
wanted=$(cat requirements.lock pyproject.toml scripts/setup.sh | cksum)
if [ -x .venv/bin/rasa ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
began=$(date +%s)

# uv installs in parallel and finds an installed Python 3.10 (on the path, in pyenv, its own) or fetches one.
if command -v uv >/dev/null 2>&1; then
  uv=uv
else
  uv=.uv/bin/uv
  if [ ! -x "$uv" ]; then
    echo "Installing uv into .uv (nothing outside this folder changes) ..."
    if python3 -m venv .uv >/dev/null 2>&1; then
      .uv/bin/python -m pip install --quiet "uv==$UV_VERSION"
    else # Debian's python3 without the python3-venv package
      rm -rf .uv
      python3 -m pip install --quiet --target .uv "uv==$UV_VERSION" || {
        echo "Neither 'python3 -m venv' nor 'python3 -m pip' works here. Install uv (https://docs.astral.sh/uv) and run this again." >&2
        exit 1
      }
    fi
  fi
fi

# uv does not read pip's settings: a registry that only pip knows of is handed on.
index=${PIP_INDEX_URL:-$(python3 -m pip config get global.index-url 2>/dev/null || true)}
if [ -n "$index" ]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
if [ -n "${PIP_CERT:-}" ]; then export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}; fi

# pyenv's shims answer for versions that are not selected; its folder is where the interpreters really are.
find_python() {
  local candidate
  for candidate in "$(PYENV_VERSION=$(pyenv versions --bare 2>/dev/null | grep -E '^3\.10\.' | tail -n 1) pyenv which python3.10 2>/dev/null || true)" \
                   "$(command -v python3.10 || true)" "$(command -v python3 || true)"; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo 3.10 # let uv search its own places, and download CPython 3.10 when there is none
}

python=$(find_python)
echo "Making .venv with Python 3.10 and the locked packages (about 7 GB with PyTorch for CUDA; minutes on a slow line) ..."
rm -rf .venv
"$uv" venv --quiet --python "$python" .venv || {
  echo "No Python 3.10 was found and none could be fetched. Install one (pyenv install 3.10, or your system's python3.10) and run this again." >&2
  exit 1
}
"$uv" pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
"$uv" pip install --quiet --python .venv/bin/python --no-deps -e .
echo "$wanted" > "$stamp"
echo "Set-up took $(( $(date +%s) - began )) s."
