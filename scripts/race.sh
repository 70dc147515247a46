#!/usr/bin/env bash
. "$(dirname "$0")/lib.sh"

need_package gcc gcc || { skip "race detector: no C compiler"; exit 0; }
say "race detector"
# The simulator's campaign runs in full without it; here it is to meet each path once.
: "${QUORATE_SIM_SEEDS:=2}" "${QUORATE_SIM_OPS:=4000}"
export QUORATE_SIM_SEEDS QUORATE_SIM_OPS
go_test -race -short ./kv/... ./store/... ./raftnode/... ./router/... ./placement/... ./httpd/... ./client/... \
  ./metrics/... ./internal/... ./test/history/...
