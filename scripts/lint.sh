#!/usr/bin/env bash
. "$(dirname "$0")/lib.sh"

say "gofmt"
bad=$(gofmt -l $(git ls-files -co --exclude-standard '*.go' | grep -v '\.pb\.go$'))
[ -z "$bad" ] || { printf 'not formatted:\n%s\n' "$bad"; exit 1; }

say "go vet"
go vet ./...
go vet -tags "blackbox docker" ./test/...
go vet -tags planted ./internal/sim/...

say "staticcheck"
# With the tags of tests, or else what only those use counts as unused.
"$(tool staticcheck)" -tags 'blackbox docker' ./...

say "module files are tidy"
go mod tidy -diff
