# The commands of the README. Each sets up what it needs; `.ci/setup` says what
# that is.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
COPYING = $(if $(MINUTES),--scale 5 --runs 1,--record docs/benchmarks.md)
SWITCHING = $(if $(MINUTES),--switches 4 --by-hand 2 --pooled 4,--record docs/benchmarks.md)

.PHONY: demo test test-all lint bench setup

# Moves a busy database and prints what its writers saw. KEEP=1 leaves everything
# running afterwards.
demo: setup
	$(CARGO) build --workspace --bins
	$(TARGET)/debug/demo $(if $(KEEP),--keep)

# Unit, contract and scripted-peer tests, and whole migrations under load.
test: setup
	$(CARGO) build --workspace --bins --tests
	$(CARGO) nextest run --workspace

# The long matrices as well: every pair of versions, both servers killed at every
# point, every fault at every point of a switch, and the release before upgraded in
# place.
test-all: setup
	.ci/before
	$(CARGO) build --workspace --bins --tests
	$(CARGO) nextest run --workspace --run-ignored all

# Formats, clippy, and the contract: lint, format, and no breaking change against
# main.
lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	.ci/contract

# From a release build, on a machine that does nothing else, as root for the
# networks: the copy and the cutover beside what users would run instead, and an idle
# agent's memory and share of a core after ten minutes. Writes the figures into
# docs/benchmarks.md and the README; takes two and a half hours. MINUTES=1 for a quick look that writes nothing.
bench: setup
	.ci/contestants
	LIBSQLITE3_FLAGS=-DHAVE_FDATASYNC=1 $(CARGO) build --release --package pgportage-agent --package pgportage-coordinator --package pgportage
	$(CARGO) build --release --package pgportage-tests --bins
	TESTED_PROGRAMS=$(TARGET)/release $(TARGET)/release/copying $(COPYING)
	TESTED_PROGRAMS=$(TARGET)/release $(TARGET)/release/copying --megabits 200 $(COPYING)
	TESTED_PROGRAMS=$(TARGET)/release $(TARGET)/release/copying --megabits 50 $(COPYING)
	TESTED_PROGRAMS=$(TARGET)/release $(TARGET)/release/copying --data tables $(if $(MINUTES),--scale 200 --runs 1,--record docs/benchmarks.md)
	TESTED_PROGRAMS=$(TARGET)/release $(TARGET)/release/switching $(SWITCHING)
	TESTED_PROGRAMS=$(TARGET)/release $(TARGET)/release/switching --round-trip 50 $(SWITCHING)
	TESTED_PROGRAMS=$(TARGET)/release $(TARGET)/release/verifying $(if $(MINUTES),--scale 5 --runs 1,--record docs/benchmarks.md)
	TESTED_PROGRAMS=$(TARGET)/release $(TARGET)/release/verifying --data tables $(if $(MINUTES),--scale 200 --runs 1,--record docs/benchmarks.md)
	TESTED_PROGRAMS=$(TARGET)/release $(TARGET)/release/idle-agent $(if $(MINUTES),--minutes $(MINUTES),--record README.md)

setup:
	@.ci/setup
