# sealbatch: `make demo` runs one job on a test cluster, `make test` runs every test.
SHELL := /bin/bash
GO ?= go
BIN := bin
STATIC := CGO_ENABLED=0 $(if $(GOARCH),GOOS=linux GOARCH=$(GOARCH))
UNIT := $$($(GO) list ./... | grep -v /e2e)
# What the programs say they are: the tag, the tag and the commit after it, or the commit. To be given where there is no repository.
VERSION ?= $(shell git describe --tags --match 'v[0-9]*' --always --abbrev=12 --dirty=+dirty 2>/dev/null)
LDFLAGS = -s -w$(if $(VERSION), -X github.com/sealbatch/sealbatch/internal/version.linked=$(VERSION)) -E main.start

.PHONY: all build setup demo demo-down test lint version licenses outdated dist docker dist-check unit e2e e2e-linuxproc bench load fuzz tidy clean

all: build

# Static binaries, side by side: both travel with every job.
build:
	@mkdir -p $(BIN)
	$(STATIC) $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/sealbatch ./cmd/sealbatch
	$(STATIC) $(GO) build -C tools/gocryptfs -trimpath -ldflags '-s -w' -tags without_openssl -o $(abspath $(BIN))/gocryptfs github.com/rfjakob/gocryptfs/v2

setup:
	@testcluster/setup

demo: setup build
	@testcluster/demo

demo-down:
	@testcluster/cluster down

test: setup build lint unit dist-check e2e

lint: build
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'gofmt: the files above are not formatted' >&2; exit 1; }
	$(GO) mod tidy -diff
	$(GO) -C tools/gocryptfs mod tidy -diff
	$(GO) -C tools/sbom mod tidy -diff
	$(GO) -C tools/compose mod tidy -diff
	$(GO) -C tools/chart mod tidy -diff
	$(GO) vet ./...
	$(GO) -C tools/chart vet .
	$(GO) tool staticcheck ./...
	@tools/licenses $(BIN)/sealbatch $(BIN)/gocryptfs | diff -q - cmd/sealbatch/licenses.txt >/dev/null || { echo 'licenses.txt is not of these dependencies: make licenses' >&2; exit 1; }
	shellcheck -x -P SCRIPTDIR $$(git ls-files | xargs grep -lE '^#!.*(/| )(ba|da)?sh' -- 2>/dev/null | grep -v testdata/)

version:
	@echo $(VERSION)

# The texts that `sealbatch version --licenses` prints, after a change of dependencies.
licenses: build
	tools/licenses $(BIN)/sealbatch $(BIN)/gocryptfs >cmd/sealbatch/licenses.txt.new
	mv cmd/sealbatch/licenses.txt.new cmd/sealbatch/licenses.txt

# Dependencies of which there are newer versions.
outdated:
	@tools/outdated

# Archives for people who do not build: dist/, for each platform, with checksums and SBOMs. Built twice and compared.
dist:
	@tools/dist

# Container images without Docker, for `docker load` or `podman load`: dist/images-linux-ARCH.tar, for each platform, of
# the images REGISTRY/container-prep:TAG, .../data-prep and so on (the Dockerfile's targets).
REGISTRY ?= localhost/sealbatch
TAG ?= latest
docker:
	@set -e; mkdir -p dist; for arch in amd64 arm64; do \
	  $(MAKE) -s build BIN=$(BIN)/linux-$$arch GOARCH=$$arch; \
	  $(GO) run ./tools/image -bin $(BIN)/linux-$$arch -arch $$arch -registry '$(REGISTRY)' -tag '$(TAG)' -version '$(VERSION)' \
	    -time "$$(git log -1 --format=%ct 2>/dev/null || echo 0)" -o dist/images-linux-$$arch.tar; \
	  echo dist/images-linux-$$arch.tar; done

# That archives can be made, and come out the same twice: for this machine alone, and thrown away.
dist-check:
	@tools/dist --check

# Processes of a race-detecting build wait for a second when they end, if they are not told not to; vet is lint's.
unit:
	GORACE=atexit_sleep_ms=0 $(GO) test -race -vet=off -p 3 $(UNIT)
	$(GO) test -count=1 -run '^TestLoad(Image)?$$' ./cmd/sealbatch

e2e: build
	@tools/compose/build >/dev/null # a few minutes, once
	$(GO) test -count=1 -vet=off -timeout 40m -parallel 6 ./e2e/...
	$(MAKE) e2e-linuxproc

# The ends of jobs once more where Slurm signals every process of a job, not the supervisors alone.
e2e-linuxproc: build
	SEALBATCH_CLUSTER=e2elp SEALBATCH_PROCTRACK=linuxproc $(GO) test -count=1 -vet=off -timeout 10m -parallel 6 \
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

# One honest node after the other beside 20 hostile accounts at 100 addresses, for LOADTIME, and what each of their
# calls costs the key service (docs/key-service.md, "Floods"). Then large images, and the memory that they take
# (docs/performance.md); this wants 20 GB in TMPDIR.
LOADTIME ?= 60s
load:
	$(GO) test -count=1 -run '^TestLoad$$' -v ./cmd/sealbatch -load $(LOADTIME)
	$(GO) test -run '^$$' -bench Costs -benchtime 1x ./cmd/sealbatch
	$(GO) test -count=1 -run '^(TestDirectory|TestMemory)$$' -v ./internal/squashfs -large
	$(GO) test -count=1 -timeout 60m -run '^TestLoadImage$$' -v ./cmd/sealbatch -load-image

# Each fuzz target for FUZZTIME.
FUZZTIME ?= 1m
fuzz:
	@set -e; for d in $$(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$d/*_test.go | sed 's/func //'); do \
	    echo "== $$d $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) ./$$d; done; done

clean:
	rm -rf $(BIN)
