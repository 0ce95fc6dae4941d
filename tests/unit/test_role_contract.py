"""What every role promises: inputs, specifications, documentation and tests that agree with each other."""

from __future__ import annotations

import importlib.util
import ipaddress
import pathlib
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in ROOT.glob("roles/*") if path.is_dir())
SCENARIOS = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))
SITE = yaml.safe_load((ROOT / "meta/site_specs.yml").read_text(encoding="utf-8"))

#: What the issue names; a role that disappears is noticed.
EXPECTED = {
    "backup_slave",
    "lb_nginx",
    "mysql_replication",
    "quorum",
    "redis_cluster_client",
    "redis_shard",
    "shared_media",
    "vip_failover",
    "was_django",
}


def load(path: pathlib.Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None


def entries(role: str) -> Mapping[str, Any]:
    return (load(ROOT / "roles" / role / "meta/argument_specs.yml") or {}).get("argument_specs") or {}


def options(role: str) -> Mapping[str, Any]:
    return (entries(role).get("main") or {}).get("options") or {}


def defaults(role: str) -> Mapping[str, Any]:
    return load(ROOT / "roles" / role / "defaults/main.yml") or {}


def walk(specs: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, spec in specs.items():
        yield f"{path}{name}", spec
        yield from walk(spec.get("options") or {}, f"{path}{name}.")


def same(value: Any) -> Any:
    """Return a value without what does not matter: white space around a folded expression."""
    return " ".join(value.split()) if isinstance(value, str) else value


def role_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("role_docs", ROOT / "tools/role_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["role_docs"] = module
    spec.loader.exec_module(module)
    return module


def test_the_roles_are_there() -> None:
    assert set(ROLES) == EXPECTED


def test_every_role_has_its_place_in_a_site() -> None:
    assert {role for group in SITE["groups"].values() for role in group["roles"]} == set(ROLES)


# --- Inputs ----------------------------------------------------------------------------------------------


def without_default(role: str) -> list[str]:
    """Return the inputs that have no value: the required ones, and secrets that only some sites need."""
    return [
        name
        for name, spec in options(role).items()
        if spec.get("required") or (spec.get("no_log") and "default" not in spec)
    ]


@pytest.mark.parametrize("role", ROLES)
def test_specs_and_defaults_have_the_same_keys(role: str) -> None:
    assert set(defaults(role)) == set(options(role)) - set(without_default(role))


@pytest.mark.parametrize("role", ROLES)
def test_specs_and_defaults_have_the_same_values(role: str) -> None:
    known = options(role)
    for name, value in defaults(role).items():
        assert "default" in known[name] or value is None, f"{name}: the specification has no default"
        assert same(known[name].get("default")) == same(value), name
        assert type(known[name].get("default")) is type(value), name


@pytest.mark.parametrize("role", ROLES)
def test_inputs_without_a_default_stand_commented_out_in_the_defaults(role: str) -> None:
    text = (ROOT / "roles" / role / "defaults/main.yml").read_text(encoding="utf-8")
    for name in without_default(role):
        assert "default" not in options(role)[name], name
        assert re.search(rf"^# ?{name}:", text, re.MULTILINE), f"{name}: no commented line in the defaults"


@pytest.mark.parametrize("role", ROLES)
def test_inputs_carry_the_name_of_their_role(role: str) -> None:
    assert [name for name in options(role) if not name.startswith(f"{role}_")] == []
    internal = load(ROOT / "roles" / role / "vars/main.yml") or {}
    assert [name for name in internal if not name.startswith(f"__{role}_")] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_typed_and_described(role: str) -> None:
    for entry in entries(role).values():
        assert entry.get("short_description"), "an entry point without a short description"
        for name, spec in walk(entry.get("options") or {}):
            assert spec.get("description"), f"{name}: no description"
            assert spec.get("type"), f"{name}: no type"
            if spec["type"] == "list":
                assert spec.get("elements"), f"{name}: a list of what?"


@pytest.mark.parametrize("role", ROLES)
def test_entry_points_have_a_specification(role: str) -> None:
    """Whatever is meant to be called from outside by tasks_from is validated too."""
    for name in entries(role):
        assert (ROOT / "roles" / role / "tasks" / f"{name}.yml").is_file(), name


@pytest.mark.parametrize("role", ROLES)
def test_a_password_has_no_default(role: str) -> None:
    for name, spec in options(role).items():
        if re.search(r"(password|secret_key|passphrase|token)$", name):
            value = spec.get("default")
            # An expression hands on the collection's own password, which has no default either.
            assert value in (None, "") or "webstack_" in value or "_password" in value, name
            assert spec.get("no_log") or spec.get("type") == "bool", f"{name}: lacks no_log"


@pytest.mark.parametrize("role", ROLES)
def test_collection_settings_are_read_in_defaults_only_and_exist(role: str) -> None:
    def used(path: pathlib.Path) -> set[str]:
        expressions = re.findall(r"\{\{.*?\}\}", path.read_text(encoding="utf-8"), re.DOTALL)
        return {name for text in expressions for name in re.findall(r"(?<![\w.'\"/-])webstack_[a-z_]+(?!\.)\b", text)}

    base = ROOT / "roles" / role
    assert used(base / "defaults/main.yml") - set(SITE["options"]) == set()
    for path in sorted(base.glob("tasks/**/*.yml")) + sorted(base.glob("handlers/*.yml")):
        assert used(path) & set(SITE["options"]) == set(), path.relative_to(ROOT)


def test_secrets_are_known_inputs() -> None:
    known = {name for role in ROLES for name in options(role)} | set(SITE["options"])
    assert [name for name in SITE["secrets"] if name not in known] == []
    for name in ("unique", "equal"):
        assert [variable for variable in SITE.get(name) or {} if variable not in known] == []
    for entry in SITE["listening"]:
        assert entry.get("port", entry.get("nodes")) in options(entry["role"])


# --- Documentation and tests -----------------------------------------------------------------------------


def test_tables_and_comments_are_up_to_date() -> None:
    """An input is described once, in its specification."""
    docs = role_docs()
    found = list(docs.documents(ROOT))
    assert {path.relative_to(ROOT).parts[1:] for path, _text, _wanted in found} >= {
        (role, *rest) for role in ROLES for rest in (("README.md",), ("defaults", "main.yml"))
    }
    assert [str(path.relative_to(ROOT)) for path, text, wanted in found if wanted != text] == [], "run `make docs`"


OPTIONS = {
    "a_number": {"type": "int", "description": "How C(many)."},
    "a_word": {"type": "str", "choices": ["x", True], "description": ["One,", "two."]},
    "a_key": {"type": "str", "required": True, "no_log": True, "description": "Opens a door."},
    "a_list": {
        "type": "list",
        "elements": "dict",
        "description": "Hosts.",
        "options": {
            "name": {"required": True},
            "ports": {"type": "list", "elements": "dict", "options": {"port": {"required": True}, "open": {}}},
        },
    },
}


def test_comments_of_the_defaults_are_the_descriptions() -> None:
    text = """---
# --- First ---
# An old word.
a_number: 1
# Another.

# a_key: ""
a_word: x
# --- Second ---
a_list: # beside it
  # inside
  - {name: a}
"""
    wanted = """---
# --- First ---

# How `many`.
a_number: 1

# Opens a door. Secret. Required.
# a_key: ""

# One, two. One of `x`, `true`.
a_word: x

# --- Second ---

# Hosts. Each has `name`, and may have `ports` (each has `port`, and may have `open`).
a_list: # beside it
  # inside
  - {name: a}
"""
    docs = role_docs()
    assert docs.commented(text, OPTIONS) == wanted
    assert docs.commented(wanted, OPTIONS) == wanted


def test_a_long_comment_is_wrapped_at_the_width_of_a_line() -> None:
    text = role_docs().commented("---\na: 1\n", {"a": {"description": "word " * 50}})
    assert max(map(len, text.splitlines())) <= 120
    assert text.count("word") == 50


def test_a_default_that_no_specification_has_is_refused() -> None:
    with pytest.raises(ValueError, match="b: no specification"):
        role_docs().commented("---\na: 1\nb: 2\n", {"a": {"description": "A."}})


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_scenario_and_behaviour_tests(role: str) -> None:
    assert role in SCENARIOS
    assert list((ROOT / "tests/testinfra" / role).glob("test_*.py")), "no tests/testinfra directory with tests"


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_complete(role: str) -> None:
    base = ROOT / "roles" / role
    missing = [
        name
        for name in (
            "README.md",
            "defaults/main.yml",
            "meta/main.yml",
            "meta/argument_specs.yml",
            "tasks/main.yml",
        )
        if not (base / name).is_file()
    ]
    assert missing == []
    meta = load(base / "meta/main.yml")
    assert meta.get("dependencies") == []
    assert meta["galaxy_info"]["platforms"]


def yaml_files() -> list[pathlib.Path]:
    return sorted(
        path for top in ("roles", "playbooks", "molecule") for path in (ROOT / top).rglob("*.yml") if path.is_file()
    )


def test_no_failure_is_swallowed() -> None:
    swallowed = [
        str(path.relative_to(ROOT))
        for path in yaml_files()
        if re.search(
            r"^\s*(- )?ignore_errors\s*:",
            path.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    ]
    assert swallowed == []


def test_what_an_earlier_command_imports_stays_as_long_as_it_does() -> None:
    """The database role comes first; timers and the server's unit call the earlier backup command until the other."""
    removing = {
        role: {item["dest"] for item in (task.get("webstack.ha.files") or {}).get("files", []) if _goes(item)}
        for role in ROLES
        for task in load(ROOT / "roles" / role / "tasks/configure.yml") or []
        if "webstack.ha.files" in task
    }
    command, imported = "/usr/local/sbin/webstack-backup", "/usr/local/lib/webstack/data_swap.py"
    assert [role for role, gone in removing.items() if imported in gone] == ["backup_slave"]
    assert [role for role, gone in removing.items() if command in gone] == ["backup_slave"]


def _goes(item: Any) -> bool:
    return isinstance(item, dict) and item.get("state") == "absent"


def test_programs_choose_their_umask_and_their_interpreter() -> None:
    """One that writes must not take over what sudo or a login of the caller says: others read what it writes."""
    programs = [path for path in ROOT.glob("roles/*/files/*") if path.is_file() and path.read_bytes()[:2] == b"#!"]
    texts = {path.name: path.read_text(encoding="utf-8") for path in programs}
    # Nor the interpreter that a login's PATH finds first.
    assert [name for name, text in texts.items() if "/env " in text.splitlines()[0]] == []
    writing = re.compile(r"write_text|\.mkdir\(|\.touch\(|open\(\"w|^\s*mkdir ", re.MULTILINE)
    # That one is started by systemd only.
    found = [name for name, text in texts.items() if writing.search(text) and not re.search(r"\bumask[ (]", text)]
    assert found == ["webstack_nutcracker.py"]


def test_programs_in_python_have_names_that_the_linters_read() -> None:
    """Ruff goes by the suffix, and mypy takes only what can be imported."""
    programs = [path for path in ROOT.glob("roles/*/files/*") if path.is_file() and path.suffix != ".py"]
    assert [p.name for p in programs if re.match(rb"#!.*python", p.read_bytes())] == []
    assert [p.name for p in ROOT.glob("roles/*/files/*.py") if not p.stem.isidentifier()] == []
    # Without its folder in mypy_path a program there would be another module than the one that others import.
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    searched = settings["mypy_path"].split(":")
    assert {str(p.parent.relative_to(ROOT)) for p in ROOT.glob("roles/*/files/*.py")} <= set(searched)


def test_playbooks_have_names_that_can_be_called() -> None:
    assert [p.name for p in ROOT.glob("playbooks/*.yml") if not re.fullmatch(r"[a-z][a-z0-9_]*\.yml", p.name)] == []


# --- Labs ------------------------------------------------------------------------------------------------


def inventory(scenario: str) -> tuple[list[str], dict[str, Any]]:
    """Return the hosts of a scenario in order, and the variables of its `all` group."""
    path = ROOT / "molecule" / scenario / "inventory.yml"
    settings = (load(ROOT / "molecule" / scenario / "molecule.yml") or {}).get("provisioner", {}).get("inventory", {})
    link = (settings.get("links") or {}).get("hosts")
    variables: dict[str, Any] = {}
    if not path.is_file() and link:
        path = (ROOT / "molecule" / scenario / link).resolve()
        for file in sorted((path.parent / "group_vars/all").glob("*.yml")):
            if file.name != "secrets.yml":
                variables.update(load(file) or {})
    data = load(path)
    hosts: dict[str, None] = {}

    def collect(group: Mapping[str, Any]) -> None:
        hosts.update(dict.fromkeys(group.get("hosts") or {}))
        for child in (group.get("children") or {}).values():
            collect(child or {})

    for group in data.values():
        collect(group)
    variables.update(data.get("all", {}).get("vars") or {})
    return list(hosts), variables


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_platforms_are_the_hosts_of_the_inventory(scenario: str) -> None:
    platforms = [platform["name"] for platform in load(ROOT / "molecule" / scenario / "molecule.yml")["platforms"]]
    assert sorted(platforms) == sorted(inventory(scenario)[0])


def test_labs_never_collide() -> None:
    hosts = Counter(host for scenario in SCENARIOS for host in inventory(scenario)[0])
    assert [host for host, count in hosts.items() if count > 1] == []
    networks = [
        (scenario, ipaddress.ip_network(inventory(scenario)[1]["webstack_network"]))
        for scenario in SCENARIOS
        if "webstack_network" in inventory(scenario)[1]
    ]
    clashes = [
        (one, two)
        for index, (one, first) in enumerate(networks)
        for two, second in networks[index + 1 :]
        if first.overlaps(second)
    ]
    assert clashes == []


#: What is evaluated although it has no braces.
CONDITIONS = {"when", "that", "until", "failed_when", "changed_when"}
EXPRESSION = re.compile(r"\{\{(.*?)\}\}|\{%(.*?)%\}", re.DOTALL)
LITERAL = re.compile(r"'(?:[^'\\]|\\.)*'")


def expressions(value: Any, condition: bool = False) -> Iterator[str]:
    """Return the expressions inside of YAML data or a template, without the texts in them."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from expressions(item, key in CONDITIONS)
    elif isinstance(value, list):
        for item in value:
            yield from expressions(item, condition)
    elif isinstance(value, str):
        found = [first or second for first, second in EXPRESSION.findall(value)]
        for text in [value] if condition and not found else found:
            yield LITERAL.sub("''", text)


@pytest.mark.parametrize("role", ROLES)
def test_booleans_are_read_as_such_wherever_they_are_used(role: str) -> None:
    """An INI file and -e name=value give texts, and the text `false` would be true."""
    folder = ROOT / "roles" / role
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("templates/*")]
    files = [path for name in ("tasks", "handlers", "vars", "defaults") for path in folder.glob(f"{name}/*.yml")]
    found = [text for item in [*texts, *map(load, files)] for text in expressions(item)]
    names = [name for name, spec in options(role).items() if spec.get("type") == "bool"]
    bare = [
        text
        for text in found
        for name in names
        if re.search(rf"\b{name}\b(?!\s*\|\s*(?:default\([^)]*\)\s*\|\s*)?bool\b)", text)
    ]
    assert bare == []
