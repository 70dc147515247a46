# `make` alone says what there is.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.release=$(VERSION)

.PHONY: help build test lint unit race sim fuzz blackbox docker-test soak bench-compare proto clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/quorate, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/quorate ./cmd/quorate

test: ## everything that CI runs; installs what a new machine lacks
	./scripts/test.sh

lint: ## gofmt, vet, staticcheck
	./scripts/lint.sh

unit: ## unit, transcript and crash tests
	$(GO) test ./...

race: ## what bears it, under the race detector
	./scripts/race.sh

sim: ## the cluster simulator: 10 runs of 21,000 operations under faults, then planted ones
	$(GO) test -count=1 -v -run 'TestCampaign|TestScenarios' ./internal/sim/...
	$(GO) test -count=1 -v -tags planted -run TestPlanted ./internal/sim/...

fuzz: ## every fuzz target for ten seconds
	./scripts/fuzz.sh 10s

blackbox: build ## real processes: kill, restart, grow, shrink, split, at scale
	$(GO) test -count=1 -tags blackbox -v ./test/...

docker-test: ## containers: the compose file, kill, pause, cut
	$(GO) test -count=1 -tags docker -v ./test/docker/...

soak: ## the long campaigns; hours
	./scripts/soak.sh

bench-compare: build ## Quorate and etcd side by side; writes docs/PERFORMANCE.md's table
	./scripts/bench-compare.sh

proto: ## regenerate the protocol buffers (needs protoc)
	./scripts/proto.sh

clean: ## remove what builds left
	rm -rf bin tmp
