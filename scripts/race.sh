#!/usr/bin/env bash
. "$(dirname "$0")/lib.sh"

command -v gcc >/dev/null || need_package gcc gcc || { echo "SKIP race detector: no C compiler"; exit 0; }
say "race detector"
go test -race -short ./kv/... ./store/... ./raftnode/... ./router/... ./placement/... ./httpd/... ./client/... ./internal/...
