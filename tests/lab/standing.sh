#!/usr/bin/env bash
# The lab that stays, as a developer has it: make lab, its variables, a protected command, make lab-down, and nothing is left.
# In a directory of its own: a lab that is up already is left alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
directory=target/standing-lab
export MAKEFLAGS=--no-print-directory

fail() {
    echo "standing.sh: $*" >&2
    exit 1
}

# Processes whose arguments or environment name the lab's directory.
left_running() {
    for process in /proc/[0-9]*; do
        if tr '\0' '\n' 2>/dev/null <"$process/cmdline" | grep -qF "$PWD/$directory" ||
            tr '\0' '\n' 2>/dev/null <"$process/environ" | grep -qF "$PWD/$directory"; then
            tr '\0' ' ' <"$process/cmdline" && echo
        fi
    done 2>/dev/null
}

uses() (
    # shellcheck source=/dev/null
    . "$directory/env"
    for variable in KUBECONFIG LAB_BOB_KUBECONFIG LAB_ADMIN_KUBECONFIG LAB_CA LAB_AUDIT_LOG LAB_POLICY LAB_CONFIG; do
        [ -f "${!variable:-}" ] || fail "$variable is no file: ${!variable:-}"
    done
    for variable in LAB_SERVER_URL LAB_ISSUER; do
        [[ ${!variable:-} == https://127.0.0.1:* ]] || fail "$variable is no URL: ${!variable:-}"
    done
    [ "${LAB_CLIENT_ID:-}" = kubernetes ] || fail "LAB_CLIENT_ID is ${LAB_CLIENT_ID:-not set}"
    [ -x "$(command -v "${BROWSER:-}")" ] || fail "BROWSER is no program: ${BROWSER:-}"
    for program in kubectl kubectl-stepup stepup-server; do
        [[ $(command -v "$program") == "$PWD/$directory"/* ]] || fail "PATH finds another $program"
    done
    grep -q 'BEGIN CERTIFICATE' "$LAB_CA" || fail "$LAB_CA is no certificate"
    stepup-server check "$LAB_CONFIG" >/dev/null

    kubectl stepup login
    kubectl create namespace prod
    kubectl delete namespace prod
    ! kubectl get namespace prod 2>/dev/null || fail "prod is still there"
    grep -q '"event":"use".*namespaces/prod' "$LAB_AUDIT_LOG" || fail "no record of the grant's use in $LAB_AUDIT_LOG"
    KUBECONFIG=$LAB_ADMIN_KUBECONFIG kubectl create namespace prod
    export KUBECONFIG=$LAB_BOB_KUBECONFIG
    kubectl stepup login
    ! kubectl delete namespace prod || fail "bob, who has no second factor, has deleted prod"
)

trap 'make lab-down LAB_DIRECTORY="$directory" >/dev/null' EXIT
make lab LAB_DIRECTORY="$directory"
uses
make lab LAB_DIRECTORY="$directory" | grep -q "up already" || fail "make lab has started something again"
[ -n "$(left_running)" ] || fail "nothing of the lab is running, or is not found"
make lab-down LAB_DIRECTORY="$directory"
left=$(left_running)
[ -z "$left" ] || fail "this is still running: $left"
echo "standing.sh: make lab and make lab-down are as they should be"
