#!/bin/sh
# Prepare this folder to run: a virtual environment in .venv and a memcached.
#
#   tools/prepare.sh         for tests: memcached has to be a program of this machine
#   tools/prepare.sh demo    for the demonstration: Docker Compose will do
#
# What is there already is left as it is. PYTHON names the Python to use (default: python3).

set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

is_there() {
    command -v "$1" >/dev/null 2>&1
}

# Whether a package can be installed without asking anyone: as root, or by sudo without a password.
may_install() {
    [ "$(id -u)" -eq 0 ] || { is_there sudo && sudo -n true 2>/dev/null; }
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

apt_install() {
    as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "$@" >/dev/null
}

# The virtual environment with what a requirements file names.
prepare_python() {
    is_there "$python" || fail "$python is missing: install Python 3.10 or newer, or name one with PYTHON=..."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$python is $("$python" --version 2>&1): install Python 3.10 or newer, or name one with PYTHON=..."

    # The stamps hold what was asked for, so that only a change of it installs again.
    wanted=$("$python" --version && cat requirements*.txt)
    for kept in "$1" requirements-dev.txt; do # which has all of the others
        if .venv/bin/python -c '' 2>/dev/null && [ "$(cat ".venv/$kept.stamp" 2>/dev/null)" = "$wanted" ]; then
            return
        fi
    done

    echo "Making the virtual environment .venv ..."
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        # Debian and Ubuntu keep this part of Python in a package of its own.
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        if is_there apt-get && may_install; then
            echo "Installing $package ..."
            apt_install "$package" || fail "$package could not be installed: install it, then try again."
        else
            fail "$python can't make virtual environments: install $package, then try again."
        fi
    fi
    "$python" -m venv --clear .venv
    pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet"
    echo "Installing $1 ..."
    $pip -r "$1"
    printf '%s\n' "$wanted" >".venv/$1.stamp"
}

install_memcached() {
    if is_there brew; then
        brew install --quiet memcached # wants no root
    elif is_there apt-get; then
        apt_install memcached
    elif is_there dnf; then
        as_root dnf install -q -y memcached
    elif is_there apk; then
        as_root apk add --quiet memcached
    elif is_there pacman; then
        as_root pacman -Sy --noconfirm memcached
    elif is_there zypper; then
        as_root zypper --non-interactive --quiet install memcached
    else
        return 1
    fi
}

prepare_memcached() {
    if is_there memcached; then
        return
    fi
    if is_there brew || may_install; then
        echo "Installing memcached ..."
        install_memcached || true # whether it worked is seen below
    fi
    if is_there memcached; then
        return
    fi
    if [ "${1:-}" = demo ] && docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
        return
    fi
    fail "memcached is missing and could not be installed: install it (package memcached), then try again."
}

# The tools and servers that the tests hold the program to. Where one can't be had, its tests are skipped.
prepare_tools() {
    missing=
    for tool in bzip2:bzip2 xz:xz-utils zstd:zstd openssl:openssl nutcracker:nutcracker; do
        is_there "${tool%%:*}" || missing="$missing ${tool#*:}"
    done
    if [ -n "$missing" ] && is_there apt-get && may_install; then
        echo "Installing$missing ..."
        # shellcheck disable=SC2086 # several words on purpose
        apt_install $missing || echo "Not all of them could be installed: their tests are skipped."
    fi
}

if [ "${1:-}" = demo ]; then
    prepare_python requirements.txt
    prepare_memcached demo
else
    prepare_python requirements-dev.txt
    prepare_memcached
    prepare_tools
fi
