# What a developer types. Everything else is cargo.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
ALL := --workspace --all-features
LAB := target/debug/lab
PERSON ?= alice

.PHONY: help build lab lab-down demo credentials test bench lint fmt

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make build        kubectl-stepup and stepup-server, into target/debug
build:
	@$(CARGO) build $(ALL)

## make lab          start a real control plane, identity provider and stepup-server; then: . target/lab/env
lab: build
	@$(LAB) up

## make lab-down     stop all of it
lab-down:
	@if [ -x $(LAB) ]; then $(LAB) down; else echo "No lab was up."; fi

## make demo         the project's story on one screen (INTERACTIVE=1: sign in yourself, in your browser)
demo: build
	@$(LAB) demo $(if $(INTERACTIVE),--interactive)

## make credentials  alice's password and one-time code of this moment (PERSON=carol: somebody else's)
credentials: build
	@$(LAB) credentials $(PERSON)

## make test         unit, black-box and lab tests; with CI=true a skipped test is a failed one
test: build
	@$(LAB) prepare
	@$(CARGO) test $(ALL) --no-fail-fast 2>&1 </dev/null | awk -f tests/summary.awk

## make bench        speed, beside what it is measured against
bench:
	@$(CARGO) bench --all-features --bench speed

## make lint         formatting, clippy for each set of features, licences and sources of the dependencies
lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(ALL) --all-targets -- -D warnings
	$(CARGO) clippy --no-default-features --features client -- -D warnings
	$(CARGO) clippy --no-default-features --features server -- -D warnings
	for script in tests/lab/oidc-provider/*.mjs; do node --check "$$script"; done
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny check bans licenses sources; \
	else echo "cargo-deny is not here (cargo install --locked cargo-deny): dependencies are not checked" >&2; fi
	@if command -v shellcheck >/dev/null; then shellcheck .ci/run; fi

## make fmt          format the code
fmt:
	$(CARGO) fmt --all
