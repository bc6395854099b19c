#!/usr/bin/env bash
# The tests on Ray with every release of Flower that is supported, each in a virtual environment of its own.
# Usage: tests/flower_versions.sh [FOLDER FOR THE ENVIRONMENTS]   (kept, so that a second time takes minutes less)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "${1:-$(mktemp -d)}")
export OMP_NUM_THREADS=1
for version in 1.41.0 1.42.0; do
  venv="$folder/flwr-$version"
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/pip" install -q -e ".[test]" "flwr[simulation]==$version"
  echo "+ flwr $version"
  PATH="$venv/bin:$PATH" "$venv/bin/python" -m pytest -m "ray and not install"
done
