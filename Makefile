# The commands of the README. Each sets up what it needs; `.ci/setup` says what
# that is.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

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
# point.
test-all: setup
	$(CARGO) build --workspace --bins --tests
	$(CARGO) nextest run --workspace --run-ignored all

# Formats, clippy, and the contract: lint, format, and no breaking change against
# main.
lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	.ci/contract

# From a release build: the two copy methods side by side, and an idle agent's
# memory and share of a core after ten minutes, written into the README. MINUTES=1
# for a quick look at both that writes nothing.
bench: setup
	$(CARGO) build --release --package pgportage-agent --package pgportage-coordinator --package pgportage
	$(CARGO) build --package pgportage-tests --bins
	TESTED_PROGRAMS=$(TARGET)/release $(TARGET)/debug/copy-methods $(if $(MINUTES),--scale 10 --runs 1)
	TESTED_PROGRAMS=$(TARGET)/release $(TARGET)/debug/idle-agent $(if $(MINUTES),--minutes $(MINUTES),--record README.md)

setup:
	@.ci/setup
