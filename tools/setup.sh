#!/usr/bin/env bash
# Everything that the project needs on this machine, inside the checkout: .venv and .cache. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

command -v python3 >/dev/null || die "python3 is missing: apt-get install python3 python3-venv"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "python3 is $(python3 -V | cut -d' ' -f2), 3.11 or newer is needed (ansible-core 2.19)"

stamp=.venv/.requirements
if ! cmp -s requirements.txt "$stamp"; then
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
            die "Python's venv is missing: apt-get install python3-venv"
        fi
        say "installing python3-venv"
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3-venv >/dev/null
    fi
    say "installing Python packages into .venv (about a minute)"
    python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
    cp requirements.txt "$stamp"
fi

# The collections that the lab uses, out of PyPI's bundle that matches our ansible-core: no Galaxy needed.
collections=.cache/collections/ansible_collections
if [ ! -d "$collections/community/docker" ]; then
    say "fetching the lab's collections"
    mkdir -p .cache/bundle "$collections"
    .venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --dest .cache/bundle \
        --requirement requirements-bundle.txt
    .venv/bin/python - <<'PY'
import pathlib, zipfile
wanted = ("community/docker/", "community/library_inventory_filtering_v1/")
(bundle,) = pathlib.Path(".cache/bundle").glob("ansible-*.whl")
with zipfile.ZipFile(bundle) as wheel:
    members = [m for m in wheel.namelist() if m.startswith(tuple(f"ansible_collections/{w}" for w in wanted))]
    wheel.extractall(".cache/collections", members)
PY
    rm -r .cache/bundle
fi
# Servers for the tests of the cache client. Debian's redis-tools carries the server's whole program (it goes by the
# name that it is called by), and unlike redis-server it starts no service on this machine.
if ! command -v redis-server >/dev/null && [ ! -e .cache/bin/redis-server ]; then
    if [ ! -x /usr/bin/redis-check-rdb ]; then
        if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
            die "Redis is missing: apt-get install redis-tools"
        fi
        say "installing redis-tools"
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y redis-tools >/dev/null
    fi
    mkdir -p .cache/bin
    ln -sfn /usr/bin/redis-check-rdb .cache/bin/redis-server
fi

# The checkout under the name by which Ansible finds a collection.
mkdir -p "$collections/webstack"
ln -sfn "$PWD" "$collections/webstack/ha"
say "ready"
