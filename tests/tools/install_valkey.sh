#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Puts Valkey 8 (valkey-server, valkey-cli) from Debian bookworm-backports into the test cache. Safe to repeat.
#
#   tests/tools/install_valkey.sh
#
# The system stays as it is: apt works in private folders with a source list of its own, borrowing only the mirror and
# the keys that this machine's apt uses, and the package is unpacked, not installed. On newer Debian the package is
# part of the release: `apt-get install valkey-server` does as well.
set -euo pipefail

cache=${SLUICE_TEST_CACHE:-$HOME/.cache/sluicefs-tests}
program=$cache/bin/valkey-server

[[ -x $program ]] && exit 0
if ! command -v apt-get > /dev/null || ! grep -qs 'VERSION_CODENAME=bookworm' /etc/os-release; then
  echo "this script knows Debian 12 (bookworm) only; install valkey-server by other means" >&2
  exit 1
fi

work=$cache/valkey
rm -rf "$work"
mkdir -p "$cache/bin" "$work/lists/partial" "$work/archives/partial" "$work/root"
# The mirror that this machine's own bookworm packages come from.
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -n 1)
if [[ -z $mirror ]]; then
  echo "apt knows no mirror of bookworm; run apt-get update, or install valkey-server by other means" >&2
  exit 1
fi
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $mirror bookworm-backports main" > "$work/sources.list"

apt=(apt-get -qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists"
  -o "Dir::Cache=$work" -o "Dir::Cache::archives=$work/archives" -o APT::Sandbox::User=)
"${apt[@]}" update
cd "$work/archives"
"${apt[@]}" download valkey-server valkey-tools
for package in ./*.deb; do
  dpkg -x "$package" "$work/root"
done
if ! "$work/root/usr/bin/valkey-server" --version > /dev/null; then
  ldd "$work/root/usr/bin/valkey-server" | grep 'not found' >&2 || true
  echo "valkey-server does not start here: install the libraries named above" >&2
  exit 1
fi
for name in valkey-server valkey-cli; do
  ln -sf "$work/root/usr/bin/$name" "$cache/bin/$name"
done
