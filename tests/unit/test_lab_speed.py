"""What makes the lab cheaper changes nothing else: byte code kept on hosts, Ansible with its plugins loaded once."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]

LOOK = """
import sys
sys.path.insert(0, sys.argv[1])
import lab_bytecode
lab_bytecode.FOLDER = sys.argv[2]
made = []
real = lab_bytecode.compile_source
lab_bytecode.compile_source = lambda *a: made.append(1) or real(*a)
sys.path.insert(0, sys.argv[3])
import thing
print(thing.VALUE, len(made))
"""


def imported(folder: pathlib.Path, source: str) -> tuple[str, str]:
    """Import a module out of an archive; return its value and how often Python compiled."""
    with zipfile.ZipFile(folder / "thing.zip", "w") as archive:
        archive.writestr("thing.py", source)
    command = [sys.executable, "-c", LOOK, str(ROOT / "lab"), str(folder / "kept"), str(folder / "thing.zip")]
    value, compiled = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return value, compiled


def test_byte_code_is_kept_by_content(tmp_path: pathlib.Path) -> None:
    (tmp_path / "kept").mkdir()
    assert imported(tmp_path, "VALUE = 1") == ("1", "1")
    assert imported(tmp_path, "VALUE = 1") == ("1", "0")
    assert imported(tmp_path, "VALUE = 2") == ("2", "1"), "a module that was changed is another one"
    for file in (tmp_path / "kept").iterdir():
        file.write_bytes(b"")
    assert imported(tmp_path, "VALUE = 2")[0] == "2", "what is kept may be broken"


def test_without_a_folder_python_compiles(tmp_path: pathlib.Path) -> None:
    value, compiled = imported(tmp_path, "VALUE = 3")
    assert value == "3"
    assert compiled != "0"


#: Conditions that hold, that do not, and that cannot be worked out; what is skipped is told, registered and notified.
SKIPPED = [
    {"ansible.builtin.debug": {"msg": "{{ nothing }}"}, "when": [True, "nothing is defined"], "register": "skipped"},
    {"ansible.builtin.debug": {"var": "skipped"}},
    {"ansible.builtin.debug": {"msg": "hidden"}, "when": False, "no_log": True, "register": "hidden"},
    {"ansible.builtin.debug": {"msg": "{{ item }}"}, "loop": [1, 2], "when": "item > 1"},
    {"ansible.builtin.command": {"argv": ["true"]}, "when": "1 > 2", "delegate_to": "elsewhere", "run_once": True},
    {"ansible.builtin.include_tasks": "no_such_file.yml", "when": "hidden is not skipped"},
    {"ansible.builtin.debug": {"msg": "never"}, "when": "nothing > 1", "ignore_errors": True},
    {"ansible.builtin.debug": {"msg": "no condition"}, "when": "[1]", "ignore_errors": True},
    {"ansible.builtin.debug": {"msg": "shown"}, "when": "skipped is skipped", "changed_when": True, "notify": "tell"},
]


def played(folder: pathlib.Path, how: str, name: str = "play") -> tuple[int, str]:
    book = [
        {
            "hosts": "localhost",
            "gather_facts": False,
            "tasks": [
                {"webstack.ha.files": {"files": [{"content": "a\n", "dest": f"{folder}/made", "mode": "0600"}]}},
                {"ansible.builtin.command": {"argv": ["cat", f"{folder}/made"]}, "changed_when": False},
                {
                    "block": [
                        {"ansible.builtin.debug": {"msg": "{{ 1 + }}"}, "when": "made is not defined and 'a' != 'b'"}
                    ],
                    "rescue": [
                        {"ansible.builtin.debug": {"msg": "{{ ansible_failed_result.msg }} \\d {{ 'a\\\\nb' }}"}}
                    ],
                },
                *SKIPPED,
                {"ansible.builtin.fail": {"msg": "{{ [] | webstack.ha.sentinel_hosts | default('none') }}"}},
            ],
            "handlers": [{"name": "tell", "ansible.builtin.debug": {"msg": "told"}, "when": "skipped is defined"}],
        }
    ]
    (folder / f"{name}.yml").write_text(json.dumps(book))
    (folder / "made").unlink(missing_ok=True)
    program = str(ROOT / ".venv/bin/ansible-playbook")
    command = [sys.executable, str(ROOT / "lab/ansible_warm.py"), program] if how == "warm" else [program]
    done = subprocess.run(
        [*command, "-i", "localhost,", "-c", "local", str(folder / f"{name}.yml")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    return done.returncode, done.stdout + done.stderr


KEPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import ansible_warm, pathlib, yaml
ansible_warm.KNOWN = pathlib.Path(sys.argv[2])
from ansible._internal._datatag._tags import Origin, TrustedAsTemplate
from ansible.parsing.yaml.loader import AnsibleLoader

def load(path, text, loaded=yaml.load):
    found = loaded(Origin(path=path).tag(TrustedAsTemplate().tag(text)), Loader=AnsibleLoader)
    return found, [(repr(Origin.get_tag(word)), TrustedAsTemplate.is_tagged_on(word)) for word in found["a"]]

role, mine = f"{ansible_warm.ROOT}/roles/x/tasks/main.yml", f"{ansible_warm.ROOT}/inventories/x/group_vars/all.yml"
text = "a: [one, '{{ two }}']"
plain = load(role, text, ansible_warm.load_text)
first, second, other = load(role, text), load(role, text), load(role, text + "\\nb: 3")
first[0]["a"].append("mine")
third = load(role, text)
load(mine, "a: [the password]")
print(json.dumps([plain, second, third, other[0]["b"], len(list(ansible_warm.KNOWN.iterdir()))]))
"""


def test_yaml_of_roles_is_kept_with_where_it_stood_and_an_inventory_is_not(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-c", KEPT, str(ROOT / "lab"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    plain, second, third, other, number = json.loads(done.stdout)
    assert second == third == plain, "everybody has objects of their own"
    assert "roles/x/tasks/main.yml" in plain[1][0][0] and plain[1][1][1] is True
    assert (other, number) == (3, 2), "a file that was changed is another one"


def test_a_warm_run_does_and_says_what_a_plain_one_does(tmp_path: pathlib.Path) -> None:
    plain = played(tmp_path, "plain")
    # Twice: the second reads what the first has kept.
    assert played(tmp_path, "warm") == plain
    assert played(tmp_path, "warm") == plain
    assert "changed=2" in plain[1]
    assert "failed=1" in plain[1]
    assert "skipped=5" in plain[1]
    assert "told" in plain[1]
