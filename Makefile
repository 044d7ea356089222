# Everything that the project does to itself. `make` lists it.

GO ?= go
PORT ?= 7071

# Static, so that it runs in the image of Azure Functions; -trimpath and an empty build ID, so that the same commit gives
# the same bytes. The tag leaves out what gRPC has for debugging, 6 MB (docs/adr/0012-otlp-exporters.md).
HANDLER_FLAGS = -tags grpcnotrace -trimpath -ldflags='-s -w -buildid='

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build-local ## build, and serve http://localhost:7071/api/allocate with the rules in rules/
	@bin/usher host --port $(PORT)

.PHONY: build
build: ## build the handler for Azure Functions (bin/handler, linux/amd64, static) and the tool (bin/usher)
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 $(GO) build $(HANDLER_FLAGS) -o bin/handler ./function-app
	$(GO) build -trimpath -o bin/usher ./cmd/usher

.PHONY: build-local
build-local: ## the same for this machine, whatever it is
	@CGO_ENABLED=0 $(GO) build $(HANDLER_FLAGS) -o bin/handler ./function-app
	@$(GO) build -trimpath -o bin/usher ./cmd/usher

.PHONY: package
package: build ## build, and pack dist/usher.zip, what Azure Functions runs
	@mkdir -p dist
	@bin/usher package -o dist/usher.zip

.PHONY: test
test: ## run all tests, with the race detector where cgo is there
	USHER_E2E= $(GO) test -timeout 30m $(if $(filter 1,$(shell $(GO) env CGO_ENABLED)),-race) ./...

.PHONY: e2e
e2e: build-local ## run unmodified Azure SDKs against usher dps and usher host, the handler with Azurite, and usher play in a browser (needs Node 20 and npm)
	@if command -v node >/dev/null; then node e2e/run.mjs; else echo "e2e: skipped, node is not installed"; [ "$(USHER_E2E)" != required ]; fi
	@if command -v node >/dev/null; then node e2e/play/run.mjs; fi
	USHER_E2E=$(or $(USHER_E2E),on) USHER_E2E_PROGRAMS=$(CURDIR)/bin $(GO) test -count=1 -v ./e2e

.PHONY: check
check: ## formatting, vet, linter, rules, editor files, import table, page of usher play, go.mod
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) run ./cmd/usher fmt --check rules bench/rules
	$(GO) run ./cmd/usher check --fail-on warning rules
	@# With no exchanges, because usher new hands out only the Rego tests.
	$(GO) run ./cmd/usher test --mutate-threshold 90 --exchanges rules/lib rules
	$(GO) run ./cmd/usher editor --check
	$(GO) test -run '^TestImports' .
	@if command -v node >/dev/null; then node internal/play/page/check.mjs; else echo "page: skipped, node is not installed"; [ "$(USHER_E2E)" != required ]; fi
	$(GO) mod tidy -diff
	$(GO) mod verify

.PHONY: vulnerabilities
vulnerabilities: ## look for known vulnerabilities in what is linked (needs the network)
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.1.4 ./...

.PHONY: editor
editor: ## write .usher, by which editors check rules
	$(GO) run ./cmd/usher editor

.PHONY: page
page: ## build the page of usher play from its sources (needs Node 20 and npm)
	cd internal/play/page && npm ci --no-progress --loglevel=error && node build.mjs

.PHONY: fmt
fmt: ## format Go and Rego
	gofmt -w .
	$(GO) run ./cmd/usher fmt rules bench/rules

.PHONY: bench
bench: build-local ## print the figures, as ratios to floors measured in the same run
	@$(GO) build -o bin/bench ./bench
	@bin/bench

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (30s)
	@set -e; for f in $$(grep -rl --include='*_test.go' '^func Fuzz' .); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$f); do \
			echo "== $$(dirname $$f) $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) ./$$(dirname $$f); \
		done; done

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist
