#!/usr/bin/env bash
. "$(dirname "$0")/lib.sh"

need_package gcc gcc || { skip "race detector: no C compiler"; exit 0; }
say "race detector"
go_test -race -short ./kv/... ./store/... ./raftnode/... ./router/... ./placement/... ./httpd/... ./client/... \
  ./metrics/... ./internal/... ./test/history/...
