# shellcheck shell=bash
# Shared by the scripts; to be sourced. They all run from the repository's root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

# skip REASON: says what is left out. scripts/test.sh collects these lines and
# repeats them at the end, also those of the scripts that it runs.
skip() { printf 'SKIP %s\n' "$*"; }

# need_package COMMAND PACKAGE: true if the command is there or could be
# installed from Debian's packages.
need_package() {
  command -v "$1" >/dev/null && return 0
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  [ -e /tmp/quorate-apt-updated ] || { apt-get update -qq && touch /tmp/quorate-apt-updated; } || return 1
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null || return 1
  command -v "$1" >/dev/null
}

# tool NAME: the path of a Go tool that tools/go.mod pins.
tool() {
  mkdir -p bin/tools
  [ -x "bin/tools/$1" ] && [ "bin/tools/$1" -nt tools/go.mod ] ||
    GOBIN="$PWD/bin/tools" go -C tools install tool >&2
  printf '%s/bin/tools/%s' "$PWD" "$1"
}

# fuzz_targets: all fuzz targets, a package's directory and a function a line.
fuzz_targets() {
  grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's|^(.*)/[^/]*:func |\1 |' | sort
}

# go_test ARGUMENTS: go test, telling which tests were skipped, and saying more of a
# package than its result only if it fails. The log of all is in tmp/.
go_test() {
  mkdir -p tmp
  local log
  log=$(mktemp tmp/go-test-XXXXXX)
  go test -v "$@" 2>&1 | tee "$log" | awk -f scripts/summary.awk
}
