# make demo    a local cluster with sample data behind a router
# make test    everything CI runs, after installing what is missing
# make check   formatting and lints
# make bench   benchmarks, the last of them beside PostgreSQL and PgBouncer
# make soak    TPC-B over two shards for a minute
# make night   transfers under kills, stops and cuts for an hour, and random writes beside PostgreSQL

CARGO ?= cargo
# Further words for `cargo test`, such as a test's name.
TEST ?=

BANK_SECONDS ?= 3600
GENERATED_HISTORIES ?= 3000
SEED ?= $(shell date +%s)

.PHONY: demo test check bench soak night build setup drivers

demo: setup
	$(CARGO) run --quiet -- demo $(DEMO)

test: setup drivers
	$(CARGO) test --workspace $(TEST)

check:
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

bench: setup
	ulimit -n 20000 2>/dev/null; $(CARGO) bench --workspace $(BENCH)

soak: setup
	$(CARGO) bench --bench pgbench -- soak

# The same run again: SEED as it was printed.
night: setup
	@echo "SEED=$(SEED)"
	BANK_SECONDS=$(BANK_SECONDS) BANK_SEED=$(SEED) $(CARGO) test --test cluster bank:: -- --nocapture
	GENERATED_HISTORIES=$(GENERATED_HISTORIES) GENERATED_SEED=$(SEED) $(CARGO) test --test cluster histories

build: setup
	$(CARGO) build --release

# PostgreSQL's server programs and libclang; says what to do where it may not install.
setup:
	@deploy/setup.sh

# Client drivers of other languages under target/drivers; what cannot be had is skipped by the tests.
drivers:
	@deploy/drivers.sh
