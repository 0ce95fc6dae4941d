#!/usr/bin/env bash
# Build the collection, install the tarball as a user would, and run ansible-test sanity on the installed copy:
# ansible-test wants a real `ansible_collections/webstack/ha`, and so it tests what users get.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
export PATH=$root/.venv/bin:$PATH

# ansible-test keeps its virtual environments in the home, by what they hold; only the copy that is tested is new.
work=$root/.cache/sanity
rm -rf "$work/collections" "$work"/*.tar.gz
mkdir -p "$work/home/.ansible/test/cache"

ansible-galaxy collection build --force --output-path "$work" .
ansible-galaxy collection install --force --no-deps -p "$work/collections" "$work"/webstack-ha-*.tar.gz

# The environments start with a pip that ansible-test downloads; .venv's own serves as well.
# Every version that it may ask for is the same file.
version=$(python - <<'PY'
import inspect, re
from ansible_test._internal.python_requirements import get_venv_packages
print(re.search(r"pip='([\d.]+)'", inspect.getsource(get_venv_packages))[1].replace(".", "_"))
PY
)
cat >"$work/home/.ansible/test/cache/get_pip_$version.py" <<PY
import pathlib, shutil, sysconfig

for folder in pathlib.Path("$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')").glob("pip*"):
    shutil.copytree(folder, f"{sysconfig.get_path('purelib')}/{folder.name}")
PY
# Our own home keeps the user's clean; their pip configuration still holds.
[ -f ~/.config/pip/pip.conf ] && export PIP_CONFIG_FILE=~/.config/pip/pip.conf
export HOME=$work/home LC_ALL=C.UTF-8

cd "$work/collections/ansible_collections/webstack/ha"
# ansible-test asks git which files there are. The program of the hosts, what roles put on them and the demo application
# are no plugins of Ansible, and its rules for those (nothing printed, no name `_`) do not fit them; ruff and mypy read
# them. What plugins share with that program is in `pure`, and read here, too.
git init --quiet .
printf '%s\n' 'roles/*/files/' 'roles/*/templates/' examples/ \
    'plugins/module_utils/webstack/*' '!plugins/module_utils/webstack/pure/' >>.git/info/exclude
git add --all .
ansible-test sanity --color no --python "$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" "$@"
