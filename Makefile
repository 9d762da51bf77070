# What a developer types. Everything else is cargo.
CARGO ?= cargo
LAB := target/debug/lab

.PHONY: build lab lab-down

build:
	$(CARGO) build --workspace --all-features

# Starts the real control plane, identity provider and stepup-server, and returns; then: . target/lab/env
lab: build
	@$(LAB) up

lab-down:
	@if [ -x $(LAB) ]; then $(LAB) down; else echo "No lab was up."; fi
