#!/usr/bin/env bash
. "$(dirname "$0")/lib.sh"

say "etcd 3.4 from Debian, 3.7 from its module"
need_package etcd etcd-server || skip "etcd 3.4: not installed"
go -C bench/etcd build -o "$PWD/bin/etcd-3.7" go.etcd.io/etcd/server/v3
go -C bench/etcd build -o "$PWD/bin/bench-compare" .

say "measuring, in turn"
bin/bench-compare --out docs/PERFORMANCE.md "$@"
