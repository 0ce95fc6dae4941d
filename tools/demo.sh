#!/usr/bin/env bash
# The demo: lab hosts, then the very playbook that production uses, then what to look at.
set -euo pipefail
cd "$(dirname "$0")/.."

port=${WEBSTACK_LAB_PORT:-8443}
inventory=inventories/demo
export ANSIBLE_CONFIG=ansible.cfg

trap 'printf "\ndemo: interrupted; run \"make demo\" again to go on, \"make demo-down\" to remove it\n" >&2; exit 130' INT

# Hosts go without .venv, too.
python=.venv/bin/python
[ -x "$python" ] || python=python3
lab() { "$python" tools/lab.py "$@"; }
playbook() { .venv/bin/ansible-playbook -i "$inventory" "$@"; }

up() {
    lab up --lab demo --inventory "$inventory"
    playbook playbooks/secrets.yml
    playbook playbooks/site.yml
    cat <<TEXT

The site is up.

  open           https://demo.localhost:$port/    (the certificate is the demo's own: accept it)
  or, on Linux   curl -k --resolve www.demo.test:443:10.77.0.100 https://www.demo.test/whoami

  look           which balancer, application server, shard and database answered; log in, count, write a
                 note, upload a file; reload and watch the servers take turns

  break          docker kill lb1                  the virtual address moves to lb2
                 docker kill was1                 was2 answers alone
                 docker kill redis1               its shard's replica is promoted
                 docker kill db1                  pages and sessions stay, a write answers 503
                 docker start NAME                brings it back

  back up        .venv/bin/ansible-playbook -i $inventory playbooks/backup.yml
  remove         make demo-down
TEXT
}

down() {
    if docker info >/dev/null 2>&1; then lab down --lab demo; fi
    rm -rf "$inventory/.pki" "$inventory/group_vars/all/secrets.yml"
}

case ${1:-} in
    up) up ;;
    down) down ;;
    *) echo "usage: demo.sh up|down" >&2; exit 2 ;;
esac
