# What a developer types. Everything else is cargo.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
ALL := --workspace --all-features
LAB := target/debug/lab
LAB_DIRECTORY ?= target/lab
PERSON ?= alice
FOR ?= 60
# Named, so that build scripts and macros of compilers are left without what follows.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
# What libFuzzer needs in the code that it tries, from a stable compiler too.
INSTRUMENTS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1

.PHONY: help build lab lab-down demo pictures matrix credentials test windows fuzz bench lint fmt

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make build        kubectl-stepup and stepup-server, into target/debug
build:
	@$(CARGO) build $(ALL)

## make lab          start a real control plane, identity provider and stepup-server; then: . target/lab/env
lab: build
	@$(LAB) up --directory $(LAB_DIRECTORY)

## make lab-down     stop all of it
lab-down:
	@if [ -x $(LAB) ]; then $(LAB) down --directory $(LAB_DIRECTORY); else echo "No lab was up."; fi

## make demo         the project's story on one screen (INTERACTIVE=1: sign in yourself, in your browser)
demo: build
	@$(LAB) demo $(if $(INTERACTIVE),--interactive)

## make pictures     draw the README's pictures, docs/*.svg, from real terminals
pictures: build
	@$(LAB) pictures docs

## make matrix       find out what each client takes for each action, and write docs/compatibility.md
matrix: build
	@$(LAB) prepare
	@WRITE_MATRIX=yes $(CARGO) test --all-features --test lab matrix:: </dev/null

## make credentials  alice's password and one-time code of this moment (PERSON=carol: somebody else's)
credentials: build
	@$(LAB) credentials $(PERSON)

## make test         unit, black-box and lab tests; with CI=true a skipped test is a failed one
test: build
	@$(LAB) prepare
	@$(CARGO) test $(ALL) --no-fail-fast 2>&1 </dev/null | awk -f tests/summary.awk

## make windows      compile the client for Windows, with its unit tests; run these too where there is Wine
windows:
	@tests/windows.sh

## make fuzz         try command lines of every kind for a minute (FOR=600: longer), coverage-guided
fuzz: tests/fuzz/Cargo.lock
	@RUSTFLAGS="$(INSTRUMENTS)" $(CARGO) build --release --manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz --target $(HOST)
	@mkdir -p target/fuzz/corpus && awk '{ gsub(/ /, "\n"); printf "%s", $$0 > "target/fuzz/corpus/seed-" NR; close("target/fuzz/corpus/seed-" NR) }' \
		tests/fuzz/seeds/command_lines.txt
	@target/fuzz/$(HOST)/release/command_line target/fuzz/corpus -artifact_prefix=target/fuzz/ -max_total_time=$(FOR) -max_len=2048 -print_final_stats=1

# The versions that are tested, and those of the fuzzer itself, which cargo adds.
tests/fuzz/Cargo.lock: Cargo.lock
	@cp $< $@

## make bench        speed, beside what it is measured against
bench:
	@$(CARGO) bench --all-features --bench speed

## make lint         formatting, clippy for each set of features and the fuzz target, licences and sources of the dependencies
lint: tests/fuzz/Cargo.lock
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(ALL) --all-targets -- -D warnings
	$(CARGO) clippy --no-default-features --features client -- -D warnings
	$(CARGO) clippy --no-default-features --features server -- -D warnings
	$(CARGO) clippy --manifest-path tests/fuzz/Cargo.toml --target-dir target -- -D warnings
	@unformatted=$$(gofmt -l tests/lab); [ -z "$$unformatted" ] || { echo "gofmt: $$unformatted" >&2; exit 1; }
	for script in tests/lab/oidc-provider/*.mjs tests/lab/clients/javascript/*.mjs; do node --check "$$script"; done
	for script in tests/lab/clients/python/*.py; do python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' "$$script"; done
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny check bans licenses sources; \
	else echo "cargo-deny is not here (cargo install --locked cargo-deny): dependencies are not checked" >&2; fi
	@if command -v shellcheck >/dev/null; then shellcheck .ci/run tests/lab/standing.sh tests/windows.sh; fi

## make fmt          format the code
fmt:
	$(CARGO) fmt --all
	gofmt -w tests/lab
