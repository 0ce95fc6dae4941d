"""webstack.ha.files: what it writes, refuses, hides and puts back."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.webstack.ha.plugins.module_utils import _files
from ansible_collections.webstack.ha.plugins.modules import files
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]
ME = {"owner": str(os.geteuid()), "group": str(os.getegid())}


def request(*entries: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return what the action would send for these entries."""
    full = [entry if entry.get("state") == "absent" else {**ME, **entry} for entry in entries]
    found = {"files": _files.entries(full), **more}
    for item in found["files"]:
        item.pop("vars", None)
    return found


def snapshot(root: Path) -> dict[str, Any]:
    """Return everything below root: kind, content, mode, owner, and a file's time."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        what: Any = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        time_ns = info.st_mtime_ns if path.is_file() and not path.is_symlink() else 0
        found[str(path)] = (info.st_mode, info.st_uid, info.st_gid, what, time_ns)
    return found


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o7777)


# --- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dest": "/etc/a", "content": "x", "modus": "0644"}, r"files\[0\] \(/etc/a\): unknown key modus"),
        ({"content": "x"}, "dest is required"),
        ({"dest": "etc/a", "content": "x"}, "absolute path"),
        ({"dest": "/etc/../a", "content": "x"}, r"'\.\.'"),
        ({"dest": "/", "state": "absent"}, "root directory"),
        ({"dest": "//", "state": "absent"}, "root directory"),
        ({"dest": "/etc/a"}, "exactly one of src and content"),
        ({"dest": "/etc/a", "src": "a", "content": "x"}, "exactly one of src and content"),
        ({"dest": "/etc/a", "content": ["x"]}, "content must be text, got list"),
        ({"dest": "/etc/a", "content": "x", "mode": 420}, "quoted octal"),
        ({"dest": "/etc/a", "content": "x", "mode": "u=rw"}, "quoted octal"),
        ({"dest": "/etc/a", "content": "x", "mode": "0988"}, "quoted octal"),
        ({"dest": "/etc/a", "content": "x", "validate": "check me"}, "needs %s"),
        ({"dest": "/etc/a", "content": "x", "validate": "check 'me %s"}, "No closing quotation"),
        ({"dest": "/etc/a", "content": "x", "secret": "perhaps"}, "secret: expected true or false"),
        ({"dest": "/etc/a", "state": "gone"}, "state must be one of"),
        ({"dest": "/etc/a", "state": "link"}, "needs src"),
        ({"dest": "/etc/a", "state": "directory", "content": "x"}, "content means nothing with state directory"),
        ({"dest": "/etc/a", "state": "absent", "mode": "0644"}, "mode means nothing with state absent"),
        ({"dest": "/etc/a", "content": "x", "recursive": True}, "recursive means nothing with state file"),
        ({"dest": "/etc/a", "state": "directory", "purge": "a/*.py"}, "purge: a pattern fits names in the directory"),
        ({"dest": "/etc/a", "state": "directory", "purge": [""]}, "purge: expected a pattern"),
        ({"dest": "/etc/a", "content": "x", "purge": "*"}, "purge means nothing with state file"),
        ("/etc/a", "expected a dictionary"),
    ],
)
def test_bad_entries_are_refused_by_name(entry: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _files.entries([entry])


def test_a_dest_stands_once() -> None:
    with pytest.raises(ValueError, match=r"files\[1\] \(/a/b\): dest stands already in files\[0\]"):
        _files.entries([{"dest": "/a/b", "content": ""}, {"dest": "/a//b/", "state": "absent"}])


def test_nothing_lies_under_a_file() -> None:
    with pytest.raises(ValueError, match="which is no directory"):
        _files.entries([{"dest": "/a/b", "content": ""}, {"dest": "/a/b/c", "content": ""}])


def test_files_must_be_a_list() -> None:
    with pytest.raises(ValueError, match="expected a list"):
        _files.entries("/etc/a")


def test_null_means_not_given() -> None:
    (item,) = _files.entries([{"dest": "/etc/a", "content": "x", "src": None, "mode": None, "validate": None}])
    assert item["mode"] == 0o644
    assert item["owner"] == "root"
    assert "validate" not in item


@given(st.text(alphabet="ab ./-_$;|&`\"'%", min_size=1).filter(lambda text: text.strip()))
def test_a_command_is_never_more_than_words(text: str) -> None:
    try:
        words = _files.command(text, "validate", placeholder=False)
    except ValueError:
        return
    assert words and all(isinstance(word, str) for word in words)


# --- writing -----------------------------------------------------------------------------------------------------


def test_writes_everything_once(tmp_path: Path) -> None:
    wanted = request(
        {"dest": f"{tmp_path}/deep/er/a.conf", "content": "a\n", "mode": "0640"},
        {"dest": f"{tmp_path}/dir", "state": "directory", "mode": "0750"},
        {"dest": f"{tmp_path}/dir/b", "content": "b"},
        {"dest": f"{tmp_path}/link", "state": "link", "src": "deep/er/a.conf"},
        {"dest": f"{tmp_path}/none", "state": "absent"},
    )
    first = files.apply(wanted)
    assert first["changed_files"] == [f"{tmp_path}/{name}" for name in ("deep/er/a.conf", "dir", "dir/b", "link")]
    assert (tmp_path / "link").read_text() == "a\n"
    assert mode(tmp_path / "deep/er/a.conf") == "0o640"
    assert mode(tmp_path / "deep") == "0o755"
    assert mode(tmp_path / "dir") == "0o750"
    before = snapshot(tmp_path)
    assert files.apply(wanted) == {"changed": False, "changed_files": []}
    assert snapshot(tmp_path) == before
    assert not list(tmp_path.rglob(".webstack*"))


def test_a_directory_listed_after_its_file_keeps_its_own_mode(tmp_path: Path) -> None:
    wanted = request(
        {"dest": f"{tmp_path}/dir/b", "content": "b"},
        {"dest": f"{tmp_path}/dir", "state": "directory", "mode": "0700"},
    )
    assert files.apply(wanted)["changed"]
    assert mode(tmp_path / "dir") == "0o700"
    assert not files.apply(wanted)["changed"]


def test_only_a_mode_that_differs_is_repaired_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("a")
    path.chmod(0o777)
    inode = path.stat().st_ino
    assert files.apply(request({"dest": str(path), "content": "a"}))["changed_files"] == [str(path)]
    assert mode(path) == "0o644"
    assert path.stat().st_ino == inode


def test_what_something_else_wrote_since_stays_without_force(tmp_path: Path) -> None:
    path = tmp_path / "a"
    entry = {"dest": str(path), "content": "first", "mode": "0600", "force": False}
    assert files.apply(request(entry))["changed"] is True
    path.write_text("since")
    assert files.apply(request(entry))["changed"] is False
    path.chmod(0o644)
    assert files.apply(request(entry))["changed_files"] == [str(path)]
    assert (path.read_text(), mode(path)) == ("since", "0o600")


def test_bytes_survive(tmp_path: Path) -> None:
    raw = bytes(range(256))
    wanted = request({"dest": f"{tmp_path}/a", "content": raw.decode("utf-8", "surrogateescape")})
    files.apply(json.loads(json.dumps(wanted)))
    assert (tmp_path / "a").read_bytes() == raw


def test_a_file_replaces_a_link_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "a").symlink_to("target")
    assert files.apply(request({"dest": f"{tmp_path}/a", "content": "new"}))["changed"]
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "target").read_text() == "precious"


def test_a_link_to_a_directory_serves_as_the_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o755)
    (tmp_path / "dir").symlink_to("real")
    wanted = request({"dest": f"{tmp_path}/dir", "state": "directory", "mode": "0700"})
    assert files.apply(wanted)["changed"]
    assert (tmp_path / "dir").is_symlink()
    assert mode(tmp_path / "real") == "0o700"
    assert not files.apply(wanted)["changed"]


def test_nothing_is_absent_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not files.apply(request({"dest": f"{tmp_path}/file/deep/a", "state": "absent"}))["changed"]
    result = files.apply(request({"dest": f"{tmp_path}/file/a", "content": "x"}))
    assert f"its parent {tmp_path}/file is no directory" in result["msg"]


def test_a_very_long_name_can_be_written(tmp_path: Path) -> None:
    name = "n" * 255
    assert files.apply(request({"dest": f"{tmp_path}/{name}", "content": "x"}))["changed"]
    assert (tmp_path / name).read_text() == "x"


# --- where other accounts may write ------------------------------------------------------------------------------

# root may give directories away, which is what these tests need.
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
STRANGER = 65534


def shared(tmp_path: Path) -> tuple[Path, Path]:
    """Return a directory of another account's, and one that it must not get at."""
    place, victim = tmp_path / "shared", tmp_path / "victim"
    place.mkdir()
    victim.mkdir(mode=0o700)
    (victim / "secret").write_text("secret")
    os.chown(place, STRANGER, STRANGER)
    return place, victim


@AS_ROOT
@pytest.mark.parametrize(
    ("plant", "entry", "culprit"),
    [
        ("link", {"state": "directory", "owner": str(STRANGER), "mode": "0777"}, "link"),
        ("link", {"dest": "link/new", "content": "x"}, "link"),
        ("link", {"dest": "link/deep/new", "content": "x"}, "link"),
        ("link", {"dest": "link/secret", "state": "absent"}, "link"),
        ("link", {"dest": "link/secret", "content": "x"}, "link"),
        ("link", {"dest": "link/secret", "state": "link", "src": "/etc"}, "link"),
        ("deep/link", {"dest": "deep/link/new", "state": "directory"}, "deep/link"),
    ],
)
def test_a_link_that_another_account_can_have_made_is_not_followed(
    tmp_path: Path, plant: str, entry: dict[str, Any], culprit: str
) -> None:
    place, victim = shared(tmp_path)
    (place / plant).parent.mkdir(exist_ok=True)
    (place / plant).symlink_to(victim)
    before = snapshot(tmp_path)
    wanted = request(
        {"dest": f"{tmp_path}/first", "content": "x"}, {**entry, "dest": f"{place}/{entry.get('dest', 'link')}"}
    )
    for check in (True, False):
        result = files.apply(wanted, check=check)
        assert result["failed"], result
        assert f"{place}/{culprit} is a link" in result["msg"]
        assert f"may write in {place}" in result["msg"]
        assert "Nothing was changed" in result["msg"]
        assert snapshot(tmp_path) == before


@AS_ROOT
def test_a_link_that_only_root_can_have_made_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "srv").symlink_to("disk")
    (tmp_path / "far").symlink_to(f"{tmp_path}/srv/../srv")
    assert files.apply(request({"dest": f"{tmp_path}/far/new/file", "content": "x"}))["changed"]
    assert (tmp_path / "disk/new/file").read_text() == "x"


@AS_ROOT
@pytest.mark.parametrize("writable", [0o1777, 0o775, 0o757])
def test_a_directory_for_several_accounts_is_one_of_others(tmp_path: Path, writable: int) -> None:
    place, victim = shared(tmp_path)
    os.chown(place, 0, STRANGER)
    place.chmod(writable)
    (place / "link").symlink_to(victim)
    os.lchown(place / "link", STRANGER, STRANGER)
    result = files.apply(request({"dest": f"{place}/link/new", "content": "x"}))
    assert f"{place}/link is a link" in result["msg"]
    assert [path.name for path in victim.iterdir()] == ["secret"]


@AS_ROOT
def test_a_second_name_of_a_file_gives_nobody_the_file(tmp_path: Path) -> None:
    place, victim = shared(tmp_path)
    os.link(victim / "secret", place / "file")
    entry = {"dest": f"{place}/file", "content": "secret", "mode": "0666", "owner": str(STRANGER)}
    before = snapshot(tmp_path)
    result = files.apply(request(entry))
    assert "has a second name" in result["msg"]
    assert snapshot(tmp_path) == before
    # Other content replaces the name, and leaves the file.
    assert files.apply(request({**entry, "content": "mine"}))["changed"]
    assert (victim / "secret").read_text() == "secret"
    assert (victim / "secret").stat().st_uid == 0


@AS_ROOT
@pytest.mark.parametrize("swapped", ["folder", "file", "pipe"])
def test_what_takes_the_place_of_what_was_looked_at_gets_nothing(
    tmp_path: Path, swapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another account acts between the look and the change."""
    place, victim = shared(tmp_path)
    (place / "inner").mkdir()
    (place / "inner/secret").write_text("theirs")
    looked = files.Change._compare

    def swap(change: files.Change) -> None:
        if swapped == "folder":
            (place / "inner").rename(place / "away")
            (place / "inner").symlink_to(victim)
        else:
            (place / "inner/secret").unlink()
            if swapped == "pipe":
                os.mkfifo(place / "inner/secret")
            else:
                (place / "inner/secret").symlink_to(victim / "secret")
        looked(change)

    monkeypatch.setattr(files.Change, "_compare", swap)
    before = {path: (path.lstat().st_mode, path.lstat().st_uid) for path in (victim, victim / "secret")}
    result = files.apply(
        request({"dest": f"{place}/inner/secret", "content": "theirs", "mode": "0666", "owner": str(STRANGER)})
    )
    assert {path: (path.lstat().st_mode, path.lstat().st_uid) for path in before} == before
    assert (victim / "secret").read_text() == "secret"
    if swapped == "folder":
        assert result["changed"] and (place / "away/secret").stat().st_uid == STRANGER
    else:
        assert result["failed"] and f"{place}/inner/secret" in result["msg"], result
        assert "/proc/" not in result["msg"]


def test_no_directory_stays_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    wanted = request({"dest": f"{tmp_path}/a/b", "content": "x"}, {"dest": f"{tmp_path}/c/d", "state": "absent"})
    files.apply(wanted, check=True)
    files.apply(wanted)
    files.apply({**wanted, "validate": ["false"], "validate_always": True})
    assert os.listdir("/proc/self/fd") == before


# --- refusing ----------------------------------------------------------------------------------------------------


def test_a_full_directory_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    before = snapshot(tmp_path)
    entry = {"dest": f"{tmp_path}/d", "state": "absent"}
    result = files.apply(request({"dest": f"{tmp_path}/new", "content": ""}, entry))
    assert result["failed"]
    assert "not empty" in result["msg"] and "recursive: true" in result["msg"]
    assert result["file"] == f"{tmp_path}/d"
    assert snapshot(tmp_path) == before
    assert files.apply(request({**entry, "recursive": True}))["changed"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("outer_first", [True, False])
def test_a_directory_goes_when_all_it_holds_is_listed(tmp_path: Path, outer_first: bool) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_text("a")
    entries = [{"dest": f"{tmp_path}/d", "state": "absent"}, {"dest": f"{tmp_path}/d/a", "state": "absent"}]
    wanted = request(*(entries if outer_first else reversed(entries)))
    before = snapshot(tmp_path)
    assert files.apply({**wanted, "validate": ["false"]})["failed"]
    assert snapshot(tmp_path) == before
    assert files.apply(wanted)["changed"]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_loses_what_nobody_names_any_more(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for name in ("kept.py", "gone.py", "notes.txt"):
        (package / name).write_text(name)
    (package / "sub.py").mkdir()
    (package / "link.py").symlink_to("kept.py")
    wanted = request(
        {"dest": str(package), "state": "directory", "purge": "*.py"},
        {"dest": str(package / "kept.py"), "content": "kept.py"},
    )
    assert files.apply(wanted, check=True)["changed_files"] == [str(package / "gone.py"), str(package / "link.py")]
    assert files.apply(wanted)["changed"]
    assert sorted(path.name for path in package.iterdir()) == ["kept.py", "notes.txt", "sub.py"]
    assert not files.apply(wanted)["changed"]


@pytest.mark.parametrize("state", ["file", "link"])
def test_a_directory_is_never_replaced(tmp_path: Path, state: str) -> None:
    (tmp_path / "d").mkdir()
    entry = {"dest": f"{tmp_path}/d", "state": state, **({"content": ""} if state == "file" else {"src": "x"})}
    result = files.apply(request(entry))
    assert "is a directory" in result["msg"]
    assert (tmp_path / "d").is_dir()


def test_a_file_is_never_replaced_by_a_directory(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("x")
    assert "is a file" in files.apply(request({"dest": f"{tmp_path}/d", "state": "directory"}))["msg"]
    assert "is no directory" in files.apply(request({"dest": f"{tmp_path}/d/a", "content": ""}))["msg"]


def test_a_pipe_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    assert "left alone" in files.apply(request({"dest": f"{tmp_path}/p", "content": ""}))["msg"]


def test_an_unknown_owner_is_named_with_its_file_before_any_change(tmp_path: Path) -> None:
    wanted = request(
        {"dest": f"{tmp_path}/a", "content": "a"},
        {"dest": f"{tmp_path}/b", "content": "b", "owner": "nobody-of-that-name"},
    )
    result = files.apply(wanted)
    assert result["file"] == f"{tmp_path}/b"
    assert "owner nobody-of-that-name does not exist" in result["msg"]
    assert list(tmp_path.iterdir()) == []


# --- checking and putting back -----------------------------------------------------------------------------------


def site(tmp_path: Path) -> dict[str, Any]:
    """Lay out one of everything and ask for all of it to change."""
    (tmp_path / "old").write_text("old\n")
    (tmp_path / "old").chmod(0o600)
    os.utime(tmp_path / "old", (1, 1))
    (tmp_path / "mode").write_text("m")
    (tmp_path / "mode").chmod(0o4711)
    (tmp_path / "gone").write_text("gone")
    (tmp_path / "link").symlink_to("old")
    (tmp_path / "linked").symlink_to("gone")
    (tmp_path / "tree/a").mkdir(parents=True)
    (tmp_path / "tree/a/b").write_text("leaf")
    (tmp_path / "dir").mkdir(mode=0o711)
    return request(
        {"dest": f"{tmp_path}/old", "content": "new\n"},
        {"dest": f"{tmp_path}/mode", "content": "m", "mode": "0600"},
        {"dest": f"{tmp_path}/gone", "state": "absent"},
        {"dest": f"{tmp_path}/link", "state": "link", "src": "elsewhere"},
        {"dest": f"{tmp_path}/linked", "content": "a file now"},
        {"dest": f"{tmp_path}/tree", "state": "absent", "recursive": True},
        {"dest": f"{tmp_path}/dir", "state": "directory", "mode": "0700"},
        {"dest": f"{tmp_path}/fresh/deep/file", "content": "x"},
        {"dest": f"{tmp_path}/made", "state": "directory"},
    )


def test_a_refused_set_puts_everything_back(tmp_path: Path) -> None:
    wanted = site(tmp_path)
    before = snapshot(tmp_path)
    # The check sees the new state, complains about it, and fails.
    script = f"cat {tmp_path}/old {tmp_path}/fresh/deep/file; ls {tmp_path}/tree >&2; exit 7"
    result = files.apply({**wanted, "validate": ["sh", "-c", script]})
    assert result["failed"] and not result["changed"]
    assert result["rc"] == 7
    assert result["stdout"] == "new\nx"
    assert "No such file" in result["stderr"]
    assert result["cmd"][0] == "sh"
    assert sorted(result["restored"]) == sorted(item["dest"] for item in wanted["files"])
    assert snapshot(tmp_path) == before
    # The same set, accepted.
    result = files.apply({**wanted, "validate": ["true"]})
    assert len(result["changed_files"]) == 9
    assert not files.apply(wanted)["changed"]
    assert not list(tmp_path.rglob(".webstack*"))


def test_a_validator_that_hangs_is_ended_and_everything_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = site(tmp_path)
    before = snapshot(tmp_path)
    monkeypatch.setattr(files, "CHECK_SECONDS", 0.3)
    # What it has started hangs with it.
    mark = tmp_path.with_suffix(".pid")
    result = files.apply({**wanted, "validate": ["sh", "-c", f"sleep 60 & echo $! > {mark}; wait"]})
    assert result["failed"] and result["rc"] == 124
    assert "validation of the files in place did not end within 0.3 s" in result["msg"]
    assert snapshot(tmp_path) == before
    state = Path(f"/proc/{mark.read_text().strip()}/stat")
    assert not state.exists() or state.read_text().split(") ")[1][0] == "Z"


def test_a_missing_validator_puts_everything_back(tmp_path: Path) -> None:
    wanted = site(tmp_path)
    before = snapshot(tmp_path)
    result = files.apply({**wanted, "validate": ["/no/such/program"]})
    assert "/no/such/program" in result["msg"]
    assert snapshot(tmp_path) == before


def test_a_refused_file_leaves_all_others_untouched(tmp_path: Path) -> None:
    wanted = site(tmp_path)
    before = snapshot(tmp_path)
    # Even while the check runs no other file has given way yet.
    witness = tmp_path.parent / f"{tmp_path.name}-witness"
    script = 'cat "$1" "$2" > "$3"; basename "$1" >> "$3"; echo broken >&2; exit 3'
    bad = {"dest": f"{tmp_path}/x.service", "content": "bad\n"}
    check = ["sh", "-c", script, "check", "%s", f"{tmp_path}/old", str(witness)]
    result = files.apply(
        {"files": [*wanted["files"], *request({**bad, "validate": check})["files"]], "validate": ["true"]}
    )
    assert result["rc"] == 3 and "broken" in result["msg"]
    assert result["file"] == f"{tmp_path}/x.service"
    seen = witness.read_text().splitlines()
    assert seen[:2] == ["bad", "old"]
    assert seen[2].startswith(".") and seen[2].endswith("x.service")
    assert snapshot(tmp_path) == before


def test_an_error_half_way_puts_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = site(tmp_path)
    before = snapshot(tmp_path)
    real, calls = os.rename, []

    def rename(source: str, target: str) -> None:
        calls.append(target)
        if len(calls) == 3:
            raise OSError(28, "No space left on device", source)
        real(source, target)

    monkeypatch.setattr(files.os, "rename", rename)
    result = files.apply(wanted)
    monkeypatch.undo()
    assert "No space left on device" in result["msg"]
    assert result["file"] in result["msg"]
    assert snapshot(tmp_path) == before


def test_what_cannot_be_put_back_is_named(tmp_path: Path) -> None:
    # The checker itself drops a file into a directory that was created for the set.
    wanted = request({"dest": f"{tmp_path}/new/a", "content": ""})
    result = files.apply({**wanted, "validate": ["sh", "-c", f"touch {tmp_path}/new/other; false"]})
    assert result["changed"]
    assert result["not_restored"][0].startswith(f"{tmp_path}/new: ")
    assert not (tmp_path / "new/a").exists()


def test_the_set_is_checked_again_only_on_request(tmp_path: Path) -> None:
    wanted = request({"dest": f"{tmp_path}/a", "content": ""})
    files.apply(wanted)
    assert "failed" not in files.apply({**wanted, "validate": ["false"]})
    result = files.apply({**wanted, "validate": ["false"], "validate_always": True})
    assert result["failed"] and "Nothing was changed" in result["msg"]


def run_module(payload: dict[str, Any], path: Path, check: bool = False) -> subprocess.Popen[str]:
    """Start the module as a host would get it."""
    packed = base64.b64encode(zlib.compress(json.dumps(payload).encode())).decode()
    arguments = {"payload": packed, "_ansible_check_mode": check, "_ansible_diff": False, "quotes": "'''\"\"\"\\"}
    source = (ROOT / "plugins/modules/files.py").read_text()
    marker = "<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"
    assert source.count(marker) == 1
    path.write_text(source.replace(marker, json.dumps(arguments)))
    return subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)


def test_a_terminated_run_puts_everything_back(tmp_path: Path) -> None:
    where = tmp_path / "site"
    where.mkdir()
    wanted = site(where)
    before = snapshot(where)
    flag = tmp_path / "flag"
    process = run_module({**wanted, "validate": ["sh", "-c", f"touch {flag}; exec sleep 30"]}, tmp_path / "module.py")
    deadline = time.monotonic() + 20
    while not flag.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (where / "old").read_text() == "new\n"
    process.terminate()
    out, _ = process.communicate(timeout=20)
    assert "interrupted" in json.loads(out)["msg"]
    assert snapshot(where) == before


# --- check mode, diff, secrets -----------------------------------------------------------------------------------


def test_check_mode_reports_and_touches_nothing(tmp_path: Path) -> None:
    wanted = site(tmp_path)
    before = snapshot(tmp_path)
    result = files.apply({**wanted, "validate": ["/no/such/program"]}, check=True)
    assert result["changed_files"] == [item["dest"] for item in wanted["files"]]
    assert snapshot(tmp_path) == before


def test_check_mode_tolerates_an_empty_host(tmp_path: Path) -> None:
    entry = {"dest": f"{tmp_path}/no/where/a", "content": "", "owner": "not-yet", "group": "not-yet"}
    wanted = request({**entry, "validate": "/no/such/program %s"})
    result = files.apply(wanted, check=True, show_diff=True)
    assert result["changed"]
    assert "owner: not-yet" in json.dumps(result["diff"])


def test_diff_shows_content_and_attributes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old\n")
    (tmp_path / "a").chmod(0o600)
    (diff, attributes) = files.apply(request({"dest": f"{tmp_path}/a", "content": "new\n"}), show_diff=True)["diff"]
    assert (diff["before"], diff["after"]) == ("old\n", "new\n")
    assert "mode: 0600" in attributes["before"] and "mode: 0644" in attributes["after"]


@pytest.mark.parametrize("before", [None, "old secret\n"])
def test_diff_hides_secrets(tmp_path: Path, before: str | None) -> None:
    if before:
        (tmp_path / "a").write_text(before)
    wanted = request({"dest": f"{tmp_path}/a", "content": "new secret\n", "secret": True})
    result = files.apply(wanted, show_diff=True)
    assert "secret\\n" not in json.dumps(result).replace("[hidden: secret]\\n", "")
    assert result["diff"][0]["before"] != result["diff"][0]["after"]


def test_a_check_cannot_quote_a_secret(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("password = previous-horse\n")
    wanted = request({"dest": f"{tmp_path}/a", "content": "url = redis://:correct-horse@h/0\n", "secret": True})
    script = f"cat {tmp_path}/a; echo unknown variable \"'password=previous-horse'\" >&2; exit 1"
    result = files.apply({**wanted, "validate": ["sh", "-c", script]}, show_diff=True)
    assert "horse" not in json.dumps(result["stdout"] + result["stderr"] + result["msg"])
    assert "unknown variable" in result["stderr"]


# --- what is left to do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("nginx.service", "settled: expected a dictionary, got str"),
        ({"unit": []}, "settled: unknown key unit; known are commands, units"),
        ({"units": {"name": "a.service"}}, "settled.units: expected a list, got dict"),
        ({"units": ["a.service"]}, r"settled.units\[0\]: expected a dictionary, got str"),
        ({"units": [{"name": "nginx"}]}, r"settled.units\[0\]: name must be a unit with its ending"),
        ({"units": [{"name": "--all.service"}]}, "name must be a unit"),
        ({"units": [{"name": "a.service", "state": "started"}]}, "unknown key state; known are enabled, name, running"),
        ({"units": [{"name": "a.service", "running": "maybe"}]}, "running: expected true or false"),
        ({"commands": "true"}, "settled.commands: expected a list, got str"),
        ({"commands": [""]}, r"settled.commands\[0\]: the command is empty"),
    ],
)
def test_a_question_that_means_nothing_is_refused(raw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _files.settled(raw)


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where it is written what systemctl says of each unit: ActiveState, UnitFileState."""
    (tmp_path / "units").mkdir()
    (tmp_path / "bin").mkdir()
    said = tmp_path / "bin/systemctl"
    said.write_text(
        "#!/bin/sh\n"
        'shift 3; first=1; for unit in "$@"; do [ $first ] || echo; first=; '
        f"read -r active enabled < {tmp_path}/units/$unit || exit 1\n"
        "echo ActiveState=$active; echo UnitFileState=$enabled; done\n"
    )
    said.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path / "units"


def left(**wanted: Any) -> list[str]:
    return files.unsettled(_files.settled(wanted))


def test_states_of_units_are_compared_in_one_question(units: Path) -> None:
    for name, states in {"a": "active enabled", "b": "inactive disabled", "c": "active static"}.items():
        (units / f"{name}.service").write_text(f"{states}\n")
    good = [
        {"name": "a.service", "enabled": True, "running": True},
        {"name": "b.service", "enabled": False, "running": False},
        {"name": "c.service", "running": True},
    ]
    assert left(units=good) == []
    bad = [{"name": "a.service", "running": False, "enabled": False}, {"name": "b.service", "running": True}]
    assert left(units=bad) == ["a.service is active", "a.service is enabled", "b.service is inactive"]
    # Neither the one nor the other: whoever sets it looks.
    assert left(units=[{"name": "c.service", "enabled": True}]) == ["c.service is static"]
    assert left(units=[{"name": "c.service", "enabled": False}]) == ["c.service is static"]


def test_no_answer_of_systemd_is_no_good_one(units: Path) -> None:
    assert left(units=[{"name": "gone.service", "running": True}]) != []


def test_commands_are_asked_until_one_fails(units: Path, tmp_path: Path) -> None:
    (units / "a.service").write_text("failed enabled\n")
    good, bad = ["true"], ["sh", "-c", "echo hunter2; exit 3"]
    assert left(commands=[good, good]) == []
    assert left(commands=[good, bad, ["touch", f"{tmp_path}/asked"]]) == ["sh ends with exit code 3"]
    assert left(commands=["/no/such/program"]) == ["/no/such/program: No such file or directory"]
    # What is left is known already.
    unit = {"name": "a.service", "running": True}
    assert left(units=[unit], commands=[["touch", f"{tmp_path}/asked"]]) == ["a.service is failed"]
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("check", [False, True])
def test_what_is_left_is_asked_only_when_no_file_changes(tmp_path: Path, check: bool) -> None:
    asked = tmp_path / "asked"
    wanted = {"settled": _files.settled({"commands": [["touch", str(asked)]]})}
    entry = {"dest": str(tmp_path / "a"), "content": "x"}
    first = files.deliver(request(entry, **wanted), check)
    assert (first["settled"], first["unsettled"]) == (False, ["files changed"])
    assert not asked.exists()
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").chmod(0o644)
    second = files.deliver(request(entry, **wanted), check)
    assert (second["settled"], second["unsettled"], second["changed"]) == (True, [], False)
    assert asked.exists()
    assert "settled" not in files.deliver(request(entry), check)


# --- the whole way through ansible-playbook ----------------------------------------------------------------------


def play(tmp_path: Path, tasks: list[dict[str, Any]], *options: str) -> tuple[int, str]:
    """Run tasks on this machine; return exit code and everything that was printed."""
    playbook = tmp_path / "play.yml"
    head = {"hosts": "localhost", "connection": "local", "gather_facts": False}
    playbook.write_text(yaml.safe_dump([{**head, "vars": {"out": f"{tmp_path}/out", **ME}, "tasks": tasks}]))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(playbook), *options],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_LOG_PATH": f"{tmp_path}/log"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def task(name: str, entries: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "webstack.ha.files": {"files": entries, **more}}


def test_a_play_renders_as_template_does_and_hides_secrets(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "files").mkdir()
    (tmp_path / "templates/part.j2").write_text("part {{ who }}\n")
    (tmp_path / "templates/a.j2").write_text(
        "{{ ansible_managed | comment }}\n"
        "{% for n in [1, 2] %}\n  {{ n }} {{ who }} \\d {{ template_path | basename }}\n{% endfor %}\n"
        "{% include 'part.j2' %}\n\n\n"
    )
    (tmp_path / "files/raw.bin").write_bytes(b"\xff{{ who }}\x00")
    own = {"owner": "{{ owner }}", "group": "{{ group }}"}
    wanted = [
        {"src": "a.j2", "dest": "{{ out }}/a", "vars": {"who": "me"}, **own},
        {"src": "raw.bin", "dest": "{{ out }}/raw", **own},
        {"content": "{{ password }}\n", "dest": "{{ out }}/s", "mode": "0600", "secret": True, **own},
    ]
    tasks = [
        task("one", wanted),
        task("again", wanted) | {"register": "again", "failed_when": "again.changed"},
        {
            "name": "reference",
            "ansible.builtin.template": {"src": "a.j2", "dest": "{{ out }}/b"},
            "vars": {"who": "me"},
        },
    ]
    for one in tasks[:2]:
        one["vars"] = {"password": "correct-horse-battery"}
    code, text = play(tmp_path, tasks, "--diff", "-vvv")
    assert code == 0, text
    assert (tmp_path / "out/a").read_bytes() == (tmp_path / "out/b").read_bytes()
    assert (tmp_path / "out/raw").read_bytes() == b"\xff{{ who }}\x00"
    assert (tmp_path / "out/s").read_text() == "correct-horse-battery\n"
    assert "correct-horse" not in text
    assert "correct-horse" not in (tmp_path / "log").read_text()
    assert "+  1 me" in text


def test_a_play_in_check_mode_changes_nothing(tmp_path: Path) -> None:
    entry = {"content": "x", "dest": "{{ out }}/a/b", "owner": "not-yet", "validate": "/no/such/program %s"}
    code, text = play(tmp_path, [task("one", [entry], validate="/no/such/program")], "--check", "--diff")
    assert code == 0, text
    assert "changed=1" in text and "+x" in text
    assert not (tmp_path / "out").exists()


def test_errors_of_a_play_name_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/bad.j2").write_text("{{ never_set }}\n")
    cases = {
        "never_set": task("a", [{"src": "bad.j2", "dest": "/x/a"}]),
        "bad.j2 (for /x/a)": task("b", [{"src": "bad.j2", "dest": "/x/a"}]),
        "missing.conf (for /x/b)": task("c", [{"src": "missing.conf", "dest": "/x/b"}]),
        "unknown key modus": task("d", [{"content": "", "dest": "/x/c", "modus": "0644"}]),
        "unknown option file": {"name": "e", "webstack.ha.files": {"file": []}},
        "webstack.ha.files: files is required": {"name": "f", "webstack.ha.files": {"validate": "true"}},
    }
    tasks = [one | {"ignore_errors": True} for one in cases.values()]
    asks = task("no file, and a question", [], settled={"commands": ["false"]})
    asks |= {"register": "asked", "failed_when": "asked.settled or asked.changed"}
    code, text = play(tmp_path, [*tasks, task("nothing to do is fine", "{{ [] }}"), asks])
    flat = " ".join(text.split())
    assert code == 0, text
    assert "ok=8 " in text and "ignored=6" in text
    for message in cases:
        assert message in flat


@pytest.mark.parametrize(
    ("state", "calls"),
    [("ActiveState=active\nUnitFileState=enabled\n", 1), ("ActiveState=inactive\nUnitFileState=enabled\n", 2)],
)
def test_a_unit_that_has_to_run_is_started(monkeypatch: pytest.MonkeyPatch, state: str, calls: int) -> None:
    asked: list[list[str]] = []

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(words)
        return subprocess.CompletedProcess(words, 0, state, "")

    monkeypatch.setattr(subprocess, "run", run)
    answer = files.deliver({"files": [], "running": ["cron.service"]})
    assert len(asked) == calls
    assert answer["changed"] is (calls == 2)
    assert answer["changed_files"] == (["cron.service"] if calls == 2 else [])
    checked = files.deliver({"files": [], "running": ["cron.service"]}, check=True)
    assert checked["changed"] is (calls == 2)
    assert [words[1] for words in asked].count("enable") == calls - 1, "check mode starts nothing"


def test_a_unit_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 1, "", "Unit cron.service not found.\n")

    monkeypatch.setattr(subprocess, "run", run)
    answer = files.deliver({"files": [], "running": ["cron.service"]})
    assert answer["failed"] is True
    assert "cron.service" in answer["msg"]
    assert "not found" in answer["msg"]
