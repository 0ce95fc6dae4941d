"""webstack.ha.packages: the look at dpkg, and what happens with the answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.webstack.ha.plugins.action import packages as action
from ansible_collections.webstack.ha.plugins.modules import packages as module


def fake_dpkg(tmp_path: Path, lines: str, code: int = 0) -> str:
    program = tmp_path / "dpkg-query"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{lines}'\necho complaint >&2\nexit {code}\n")
    program.chmod(0o755)
    return str(program)


def test_only_what_is_installed_and_configured_counts(tmp_path: Path) -> None:
    lines = (
        "installed nginx amd64\n"
        "config-files apache2 amd64\n"
        "half-configured redis amd64\n"
        "not-installed curl amd64\n"
        "installed libc6 amd64\ninstalled libc6 i386\n"
    )
    names = ["nginx", "apache2", "redis", "curl", "unknown", "libc6:i386", "libc6:arm64"]
    missing = module.missing(names, fake_dpkg(tmp_path, lines, 1))
    assert missing == ["apache2", "redis", "curl", "unknown", "libc6:arm64"]


def test_dpkg_that_fails_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit code 2: complaint"):
        module.missing(["nginx"], fake_dpkg(tmp_path, "", 2))


def test_dpkg_that_hangs_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "dpkg-query"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(module, "SECONDS", 0.3)
    with pytest.raises(RuntimeError, match=r"dpkg-query did not end within 0\.3 s"):
        module.missing(["nginx"], str(program))


def test_no_names_need_no_look() -> None:
    assert module.missing([], "/no/such/program") == []


@pytest.mark.parametrize("bad", ["nginx", None, ["nginx=1.2"], ["ngin*"], ["-y"], ["Nginx"], [""], [None], ["a b"]])
def test_what_is_no_package_name_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="name: "):
        action.names(bad)


def test_names_are_kept_in_order_and_once() -> None:
    assert action.names(["nginx", "g++", "libc6:i386", "nginx"]) == ["nginx", "g++", "libc6:i386"]


class Recorder(action.ActionModule):
    """The action with a host that answers from a list."""

    def __init__(self, args: dict[str, Any], answers: list[dict[str, Any]], **flags: Any) -> None:
        flags = {"check_mode": False, "diff": False, "delegate_to": None, **flags}
        self._task = SimpleNamespace(args=args, async_val=0, **flags)
        self.answers = answers
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def _execute_module(self, module_name: str, module_args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        self.calls.append((module_name, module_args))
        return self.answers.pop(0)

    @property
    def asked(self) -> list[str]:
        return [name for name, _ in self.calls]


@pytest.fixture(autouse=True)
def _no_base_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action.ActionBase, "run", lambda self, tmp=None, task_vars=None: {})


LOOK, APT = "webstack.ha.packages", "ansible.legacy.apt"


def test_apt_is_not_called_when_nothing_is_missing() -> None:
    host = Recorder({"name": ["nginx"]}, [{"changed": False, "missing": []}])
    assert host.run(task_vars={}) == {"changed": False, "missing": []}
    assert host.asked == [LOOK]


def test_apt_installs_only_what_is_missing_and_starts_nothing() -> None:
    host = Recorder({"name": ["nginx", "curl"]}, [{"missing": ["curl"]}, {"changed": True}])
    assert host.run(task_vars={}) == {"changed": True, "missing": ["curl"]}
    assert host.asked == [LOOK, APT]
    args = host.calls[1][1]
    assert args["name"] == ["curl"]
    assert args["policy_rc_d"] == 101
    assert args["install_recommends"] is False


def test_check_mode_only_looks() -> None:
    host = Recorder({"name": ["nginx"]}, [{"missing": ["nginx"]}], check_mode=True, diff=True)
    result = host.run(task_vars={})
    assert result["changed"] and result["missing"] == ["nginx"]
    assert result["diff"]["after"] == "nginx\n"
    assert host.asked == [LOOK]


@pytest.mark.parametrize("message", ["No package matching 'nginx' is available", "E: Failed to fetch http://x 404"])
def test_stale_lists_are_refreshed_once(message: str) -> None:
    failure = {"failed": True, "msg": message}
    host = Recorder({"name": ["nginx"]}, [{"missing": ["nginx"]}, failure, {"changed": True}])
    assert host.run(task_vars={})["changed"]
    assert [args.get("cache_valid_time") for _, args in host.calls[1:]] == [3600, 0]
    host = Recorder({"name": ["nginx"]}, [{"missing": ["nginx"]}, failure, failure])
    assert host.run(task_vars={})["msg"] == message


def test_another_failure_is_final() -> None:
    failure = {"failed": True, "msg": "dpkg was interrupted"}
    host = Recorder({"name": ["nginx"]}, [{"missing": ["nginx"]}, failure])
    assert host.run(task_vars={})["failed"]
    assert host.asked == [LOOK, APT]


def test_a_host_that_fails_to_answer_fails_the_task() -> None:
    host = Recorder({"name": ["nginx"]}, [{"failed": True, "msg": "no dpkg-query"}])
    assert host.run(task_vars={})["msg"] == "no dpkg-query"


@pytest.mark.parametrize("args", [{"name": ["a1"], "state": "latest"}, {}, {"name": "nginx"}])
def test_bad_arguments_are_refused(args: dict[str, Any]) -> None:
    with pytest.raises(AnsibleActionFail, match=r"webstack\.ha\.packages: (unknown option state|name: )"):
        Recorder(args, []).run(task_vars={})


TOLD = {"__webstack_look": {"installed": "curl nginx nginx-common"}}


def test_a_host_that_told_its_packages_is_not_asked_again() -> None:
    told = Recorder({"name": ["nginx", "curl"]}, [])
    assert told.run(task_vars=TOLD) == {"changed": False, "missing": []}
    assert told.asked == []


@pytest.mark.parametrize(
    ("names", "look", "flags"),
    [
        (["nginx", "haproxy"], TOLD, {}),
        (["nginx:amd64"], TOLD, {}),
        (["nginx"], {"__webstack_look": {"installed": ""}}, {}),
        (["nginx"], {"__webstack_look": {"skipped": True}}, {}),
        (["nginx"], {}, {}),
        # What this host said, another one did not.
        (["nginx"], TOLD, {"delegate_to": "other"}),
    ],
)
def test_what_a_host_did_not_tell_it_is_asked(names: list[str], look: dict[str, Any], flags: dict[str, Any]) -> None:
    asked = Recorder({"name": names}, [{"missing": []}], **flags)
    assert asked.run(task_vars=look) == {"missing": []}
    assert asked.asked == ["webstack.ha.packages"]
