# sealbatch: `make demo` runs one job on a test cluster, `make test` runs every test.
SHELL := /bin/bash
GO ?= go
BIN := bin
STATIC := CGO_ENABLED=0
UNIT := $$($(GO) list ./... | grep -v /e2e)

.PHONY: all build setup demo demo-down test lint unit e2e e2e-linuxproc bench fuzz tidy clean

all: build

# Static binaries, side by side: both travel with every job.
build:
	@mkdir -p $(BIN)
	$(STATIC) $(GO) build -trimpath -ldflags '-s -w' -o $(BIN)/sealbatch ./cmd/sealbatch
	$(STATIC) $(GO) build -C tools/gocryptfs -trimpath -ldflags '-s -w' -tags without_openssl -o $(CURDIR)/$(BIN)/gocryptfs github.com/rfjakob/gocryptfs/v2

setup:
	@testcluster/setup

demo: setup build
	@testcluster/demo

demo-down:
	@testcluster/cluster down

test: setup build lint unit e2e

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'gofmt: the files above are not formatted' >&2; exit 1; }
	$(GO) mod tidy -diff
	$(GO) -C tools/gocryptfs mod tidy -diff
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	shellcheck -x -P SCRIPTDIR $$(git ls-files | xargs grep -lE '^#!.*(/| )(ba|da)?sh' -- 2>/dev/null | grep -v testdata/)

unit:
	$(GO) test -race $(UNIT)

e2e: build
	$(GO) test -count=1 -timeout 40m -parallel 4 ./e2e/...
	$(MAKE) e2e-linuxproc

# The ends of jobs once more where Slurm signals every process of a job, not the supervisors alone.
e2e-linuxproc: build
	SEALBATCH_CLUSTER=e2elp SEALBATCH_PROCTRACK=linuxproc $(GO) test -count=1 -timeout 10m -parallel 6 \
	  -run '^(TestScancel|TestTimeLimit|TestKill|TestEndBySignal|TestApplicationFails)$$' ./e2e

# Figures: sealed volumes beside what else there is (20 minutes; docs/performance.md; BENCH takes flags such as
# -only REGEXP), then the rate of the key service for 1, 100 and 1,000 nodes at once.
BENCH ?=
bench: build
	@testcluster/setup rclone python3 python3-paramiko python3-scp
	@$(GO) build -o $(BIN)/bench ./bench
	@$(BIN)/bench -bin $(BIN) $(BENCH)
	@echo; echo 'The key service'; echo
	@set -o pipefail; $(GO) test -run '^$$' -bench . -benchtime 1x ./cmd/sealbatch | awk '/FAIL|---|\.go:/ { print } \
	  /^Benchmark/ { line = sprintf("%-28s", substr($$1, 10)); head = sprintf("%-28s", "what"); \
	    for (i = 3; i < NF; i += 2) { head = head sprintf("%24s", $$(i+1)); line = line sprintf("%24s", $$i) } \
	    if (!n++) print head; print line }'

# Each fuzz target for FUZZTIME.
FUZZTIME ?= 1m
fuzz:
	@set -e; for d in $$(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$d/*_test.go | sed 's/func //'); do \
	    echo "== $$d $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) ./$$d; done; done

clean:
	rm -rf $(BIN)
