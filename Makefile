# The project's entry points. `make` alone lists them. Everything that is missing is installed by scripts/install-deps,
# as far as Debian's packages go.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# A target that runs two others runs them in order: they share cargo's lock anyway.
.NOTPARALLEL:

CARGO ?= cargo
# Where the module and its build for the tests are put; absolute, because the tests change directory.
MODULE ?= $(CURDIR)/target/release/tagcache.so
MODULE_PANIC ?= $(CURDIR)/target/panic/tagcache.so
# More arguments for the program that run, demo or bench start, such as ARGS=--quick.
ARGS ?=

export TAGCACHE_MODULE = $(MODULE)
export TAGCACHE_MODULE_PANIC = $(MODULE_PANIC)

.PHONY: help
help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r t d; do \
	  printf '  make %-18s %s\n' "$$t" "$$d"; done

.PHONY: build
build: ## Build the module: target/release/tagcache.so
	@scripts/install-deps build
	@scripts/build-module '$(MODULE)'

.PHONY: run
run: build ## Start a server with this machine's package list in it, and the dashboard; Ctrl-C ends both
	@scripts/install-deps server
	@exec $(CARGO) run --locked -p tagcache-admin --bin tagcache -- up --tour $(ARGS)

.PHONY: up
up: build ## Start an empty server with the module, and the dashboard (release build); Ctrl-C ends both
	@scripts/install-deps server
	@exec $(CARGO) run --release --locked -p tagcache-admin --bin tagcache -- up $(ARGS)

.PHONY: demo
demo: build ## The tour of run alone, with a status that says whether all was as expected
	@scripts/install-deps server
	@exec $(CARGO) run --locked -p tagcache-admin --bin tagcache -- up --tour --exit $(ARGS)

.PHONY: test
test: test-deps lint msrv modules ## Everything: formatting, lints, all tests on the first server, differences on each server
	TAGCACHE_ENGINES="$$(scripts/engines)" && export TAGCACHE_ENGINES && \
	  $(CARGO) test --workspace --locked --no-fail-fast
	$(CARGO) test --workspace --features tagcache-admin/jemalloc --locked --test heap_profile
	scripts/test-python '$(MODULE)'
	scripts/test-integrations --short
	$(MAKE) demo

.PHONY: test-engines
test-engines: test-deps modules ## All tests on each server
	TAGCACHE_ENGINES="$$(scripts/engines)" && export TAGCACHE_ENGINES && \
	  TAGCACHE_ALL_ENGINES=1 $(CARGO) test --workspace --locked --no-fail-fast

.PHONY: torture
torture: build ## Faults of all kinds while a fleet reads and writes; ARGS="--seconds N --seed S --only FAULT --engine NAME"
	@scripts/install-deps server
	TAGCACHE_ENGINES="$$(scripts/engines)" && export TAGCACHE_ENGINES && \
	  $(CARGO) run --quiet --locked -p tagcache-torture -- $(ARGS)

.PHONY: test-integrations
test-integrations: build ## The adapters in integrations/ with their frameworks' suites; ARGS=node, python or php for one
	@scripts/install-deps server
	scripts/test-integrations $(ARGS)

.PHONY: test-deps
test-deps:
	@scripts/install-deps build server python fmt clippy
	@scripts/install-deps browser promtool || echo 'What needs them is skipped.'

.PHONY: modules
modules: build
	@scripts/build-module --panic '$(MODULE_PANIC)'

.PHONY: redis-suite
redis-suite: build ## The server's own tests with the module and without; TREE=its sources, ARGS=units
	@scripts/install-deps server tcl
	@scripts/redis-suite '$(TREE)' $(ARGS)

.PHONY: test-valgrind
test-valgrind: build ## The module's suites with two servers under memcheck (hours); ARGS="--test SUITE -- NAMES" for some
	@scripts/install-deps server valgrind
	@scripts/test-valgrind $(ARGS)

.PHONY: fuzz
fuzz: build ## Damaged inputs and random histories; ARGS="--seconds N --target NAME --coverage": target/torture/fuzz.md
	@scripts/install-deps server
	@scripts/fuzz $(ARGS)

.PHONY: fuzz-guided
fuzz-guided: ## The decoders under libFuzzer, with inputs that coverage leads; needs a nightly toolchain; ARGS="SECONDS TARGET"
	@scripts/install-deps build fuzz
	@scripts/fuzz-guided $(ARGS)

.PHONY: mutants
mutants: ## Change the code and see whether a test notices; ARGS for cargo mutants: target/torture/mutants.md
	@scripts/install-deps build mutants
	@scripts/mutants $(ARGS)

.PHONY: asan
asan: ## The module under AddressSanitizer: its own tests, then in two servers; needs a nightly toolchain
	@scripts/install-deps build server
	@$(CARGO) +nightly --version >/dev/null 2>&1 || { \
	  echo 'nightly is missing: rustup toolchain install nightly' >&2; exit 1; }
	RUSTFLAGS="$${RUSTFLAGS:-} -Zsanitizer=address" $(CARGO) +nightly test --locked -p tagcache-module \
	  --target "$$(rustc -vV | sed -n 's/^host: //p')" --target-dir "$${CARGO_TARGET_DIR:-target}/asan"
	@scripts/test-asan $(ARGS)

.PHONY: soak
soak: build ## 60 minutes of churn with figures over time; ARGS for tagcache soak: target/torture/soak.md
	@scripts/install-deps server
	@scripts/soak $(ARGS)

.PHONY: load
load: build ## Latencies of 1 to 5,000 connections beside native commands: target/torture/load.md
	@scripts/install-deps server
	@mkdir -p target/torture
	@$(CARGO) run --release --quiet --locked -p tagcache-benches -- --only clients $(ARGS) > target/torture/load.md; \
	  status=$$?; cat target/torture/load.md; exit $$status

.PHONY: bench
bench: build ## Measure against native commands, Lua and tag sets kept by a client; ARGS=--help lists the options
	@scripts/install-deps server
	@exec $(CARGO) run --release --quiet --locked -p tagcache-benches -- $(ARGS)

.PHONY: bench-guard
bench-guard: build ## Instructions per command against the checked-in baseline; fails when something got dearer
	@scripts/install-deps server valgrind
	@exec $(CARGO) run --release --quiet --locked -p tagcache-benches -- guard $(ARGS)

.PHONY: compare
compare: build ## Compare with every other way to cache with tags; ARGS=--help lists questions, sizes, servers
	@scripts/install-deps server
	@exec $(CARGO) run --release --quiet --locked -p tagcache-benches -- compare $(ARGS)

.PHONY: bench-local
bench-local: ## Measure the local tier against other in-process caches; ARGS=--quick for a short look
	@$(CARGO) bench --quiet --locked -p tagcache-benches --bench local_ratios -- $(ARGS)

.PHONY: fmt
fmt: ## Format the code
	@scripts/install-deps fmt
	$(CARGO) fmt --all

.PHONY: lint
lint: ## Formatting and clippy, without changing anything
	@scripts/install-deps build fmt clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings
	$(CARGO) clippy -p tagcache --lib --locked --no-default-features -- -D warnings
	$(CARGO) clippy -p tagcache-admin --lib --locked --no-default-features -- -D warnings

.PHONY: msrv
msrv: ## Build the client crate with the oldest supported Rust (rust-version in Cargo.toml), if rustup has it
	@v=$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml); \
	if $(CARGO) +$$v --version >/dev/null 2>&1; then \
	  $(CARGO) +$$v check --locked -p tagcache --all-features --target-dir "$${CARGO_TARGET_DIR:-target}/msrv"; \
	else \
	  echo "Rust $$v is missing, this check is skipped: rustup toolchain install $$v --profile minimal" >&2; \
	fi

.PHONY: miri
miri: ## Engine, entries and their encoding under Miri; ARGS=FILTER; needs a nightly toolchain with miri
	@scripts/install-deps build
	@$(CARGO) +nightly miri --version >/dev/null 2>&1 || { \
	  echo 'miri is missing: rustup toolchain install nightly --component miri,rust-src' >&2; exit 1; }
	PROPTEST_CASES=$${PROPTEST_CASES:-8} MIRIFLAGS="$${MIRIFLAGS:-} -Zmiri-disable-isolation -Zmiri-permissive-provenance" \
	  $(CARGO) +nightly miri test --locked -p tagcache-module -- $(or $(ARGS),engine:: entry:: record:: leb128::)

.PHONY: model
model: ## The local tier under a model checker: threads in many orders; SHUTTLE_ITERATIONS=n for more of them
	RUSTFLAGS="$${RUSTFLAGS:-} --cfg shuttle" $(CARGO) test --locked -p tagcache --lib \
	  --target-dir "$${CARGO_TARGET_DIR:-target}/shuttle" local::shuttle_tests

.PHONY: doc
doc: ## The book, its links checked (target/book), and the crates' documentation (target/doc)
	@scripts/install-deps build mdbook
	$(CARGO) test -p tagcache-tests --locked --test book links
	PATH="$(CURDIR)/target/tools/bin:$$PATH" mdbook build docs
	RUSTDOCFLAGS="$${RUSTDOCFLAGS:-} -D warnings" $(CARGO) doc --workspace --no-deps --locked

.PHONY: dist
dist: ## Build what is released: archives, Debian package, checksums: target/dist
	@scripts/dist

.PHONY: test-package
test-package: dist ## Install the Debian package in a bare root and try it; needs root
	@scripts/install-deps bare-root
	@scripts/test-package

.PHONY: deny
deny: ## Licences, advisories, duplicates and sources of the dependencies, where cargo-deny is installed; ARGS=CHECKS
	@PATH="$(CURDIR)/target/tools/bin:$$PATH"; if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check $(ARGS); \
	  else echo 'nothing checked, cargo-deny is missing: cargo install --locked cargo-deny --root target/tools'; fi

.PHONY: clean
clean: ## Remove what was built
	$(CARGO) clean
	rm -rf target integrations/node/dist integrations/node/node_modules
	rm -rf integrations/node/e2e/site/.next integrations/node/e2e/node_modules

.PHONY: clean-engines
clean-engines: ## Remove the servers that were fetched for the tests
	rm -rf .engines .engines.log
