#!/usr/bin/env bash
# One scenario, kept: `try.sh SCENARIO [EXPRESSION]` makes its hosts where they are missing, runs its playbook once more and
# then the tests that match the expression (all without one). `try.sh drop SCENARIO` removes the hosts.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/lab/bin:$PWD/.venv/bin:$PATH ANSIBLE_HOME=$PWD/.cache/ansible PYTHONUNBUFFERED=1
export MOLECULE_GLOB='molecule/*/molecule.yml'

word=${1:-} name=${1:-} expression=${2:-}
if [ "$word" = fresh ]; then exec .venv/bin/python tools/fresh.py "${2:-}"; fi
if [ "$word" = drop ]; then name=${2:-}; fi
if [ ! -f "molecule/$name/molecule.yml" ] || [ -z "$name" ]; then
    echo "try: S= names a scenario, one of: $(cd molecule && printf '%s\n' */molecule.yml | xargs -n1 dirname | xargs)" >&2
    exit 2
fi
if [ "$word" = drop ]; then exec molecule destroy --scenario-name "$name"; fi

# Molecule remembers that it made hosts; somebody may have removed them since.
if [ -z "$(docker ps --quiet --filter "label=webstack.lab=$name")" ]; then molecule destroy --scenario-name "$name"; fi
molecule converge --scenario-name "$name"
if [ -n "$expression" ]; then export PYTEST_ADDOPTS="-k '$expression'"; fi
exec molecule verify --scenario-name "$name"
