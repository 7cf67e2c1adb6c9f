#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the large servers that only the heavy tests run against: MinIO, Ceph, OpenStack Swift, HDFS. Safe to repeat.
#
#   tests/tools/install-heavy.sh [PYTHON]        after install-needs.sh
#
# Debian packages need root or passwordless sudo; MinIO is built with Go and Hadoop's jars come through Maven, both into
# $SLUICE_TEST_CACHE. What can't be installed is named; its tests print a skip, or fail with CI=true.
set -uo pipefail

cache=${SLUICE_TEST_CACHE:-$HOME/.cache/sluicefs-tests}
bin=$cache/bin
log=$cache/install-heavy.log
hadoop=3.3.6
mkdir -p "$bin"
: >"$log"
failed=()

# step NAME COMMAND…: run quietly; remember a failure instead of stopping.
step() {
  local name=$1
  shift
  printf 'installing %s\n' "$name"
  "$@" >>"$log" 2>&1 || { failed+=("$name"); printf '  failed; the end of %s says why\n' "$log"; }
}

if command -v flock >/dev/null; then
  exec 9>"$cache/.lock"
  flock 9
fi

# -- Debian packages; their services aren't needed, tests start servers of their own ---------------------------------------
declare -A packages=([ceph-mon]=ceph-mon [ceph-osd]=ceph-osd [ceph-mgr]=ceph-mgr [radosgw]=radosgw [ceph]=ceph-common
  [swift-proxy-server]=swift-proxy [swift-account-server]=swift-account [swift-container-server]=swift-container
  [swift-object-server]=swift-object [memcached]=memcached [java]=default-jre-headless [mvn]=maven)
wanted=()
for program in "${!packages[@]}"; do
  command -v "$program" >/dev/null || wanted+=("${packages[$program]}")
done
debian_packages() { # [sudo] PACKAGE…
  local elevate=()
  [[ $1 == sudo ]] && elevate=(sudo -n) && shift
  "${elevate[@]}" apt-get update -q
  "${elevate[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
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

# -- MinIO --------------------------------------------------------------------------------------------------------------
if [[ ! -x $bin/minio ]]; then
  go=$(command -v go || echo "$cache/clients/bin/go")
  step "MinIO (three minutes, once)" env GOBIN="$bin" "$go" install \
    github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
fi

# -- HDFS: the jars of a mini cluster and of its shell --------------------------------------------------------------------
hadoop_jars() {
  local project=$cache/hadoop/pom.xml
  mkdir -p "$cache/hadoop"
  cat >"$project" <<XML
<project>
  <modelVersion>4.0.0</modelVersion><groupId>tests</groupId><artifactId>hadoop</artifactId><version>1</version>
  <dependencies><dependency><groupId>org.apache.hadoop</groupId><artifactId>hadoop-minicluster</artifactId>
    <version>$hadoop</version></dependency></dependencies>
</project>
XML
  mvn --batch-mode --quiet -f "$project" dependency:copy-dependencies -DincludeScope=runtime \
    -DoutputDirectory="$cache/hadoop/lib.new" && rm -rf "$cache/hadoop/lib" && mv "$cache/hadoop/lib.new" "$cache/hadoop/lib"
}
compgen -G "$cache/hadoop/lib/hadoop-hdfs-$hadoop.jar" >/dev/null \
  || step "Hadoop $hadoop (two minutes, once)" hadoop_jars

if ((${#failed[@]})); then
  printf 'not installed:\n'
  printf '  %s\n' "${failed[@]}"
  printf 'tests that need them will print a skip (they fail with CI=true)\n'
fi
exit 0
