"""What makes a release: its name and its archive depend on the content, and on nothing else."""

from __future__ import annotations

import io
import pathlib
import subprocess
import tarfile
import zipfile
from typing import Any
from unittest import mock

import pytest
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible_collections.webstack.ha.plugins.action import release as action
from ansible_collections.webstack.ha.plugins.module_utils import _release
from ansible_collections.webstack.ha.plugins.module_utils._release import Entry
from hypothesis import given
from hypothesis import strategies as st

NAME = st.text("abcdefgh_.-é", min_size=1, max_size=8).filter(lambda name: name not in (".", ".."))
PATH = st.lists(NAME, min_size=1, max_size=3).map("/".join)
FILES = st.dictionaries(PATH, st.tuples(st.binary(max_size=20), st.booleans()), min_size=1, max_size=6)


def entries(files: dict[str, tuple[bytes, bool]]) -> list[Entry]:
    return [Entry(path, content, executable) for path, (content, executable) in files.items()]


@given(FILES, st.randoms())
def test_order_does_not_matter(files: dict[str, tuple[bytes, bool]], random: Any) -> None:
    shuffled = entries(files)
    random.shuffle(shuffled)
    one, two = _release.select(entries(files)), _release.select(shuffled)
    assert _release.digest(one) == _release.digest(two)
    assert _release.archive(one) == _release.archive(two)


@given(FILES)
def test_an_archive_holds_what_was_put_in(files: dict[str, tuple[bytes, bool]]) -> None:
    selected = _release.select(entries(files))
    assert _release.select(_release.from_tar(_release.archive(selected))) == selected


@given(FILES, FILES)
def test_other_content_has_another_name(one: dict[str, tuple[bytes, bool]], two: dict[str, tuple[bytes, bool]]) -> None:
    first, second = _release.select(entries(one)), _release.select(entries(two))
    assert (first == second) == (_release.digest(first) == _release.digest(second))


def test_the_name_never_changes_between_versions() -> None:
    """A published value: a new version of the collection must not rebuild every release."""
    digest = _release.digest([Entry("a.py", b"1\n"), Entry("b", target="a.py"), Entry("run", b"x", True)])
    assert _release.release_id(digest, {"b": 1, "a": ["é"]}) == "39de6ad57003-cce0fd73"


def test_other_inputs_make_another_release() -> None:
    names = {_release.release_id("0" * 64, inputs) for inputs in (None, {"a": 1}, {"a": 2})}
    assert len(names) == 3


def test_a_subdirectory_becomes_the_top() -> None:
    found = [Entry("back/manage.py"), Entry("back/app/x.py"), Entry("front/y.js"), Entry("backup/z")]
    assert [entry.path for entry in _release.select(found, "back")] == ["app/x.py", "manage.py"]


@pytest.mark.parametrize(
    ("path", "pattern", "out"),
    [
        ("a/.git/config", ".git", True),
        ("a/b.pyc", "*.pyc", True),
        ("media/cat.png", "/media", True),
        ("app/media/cat.png", "/media", False),
        ("docs/a/b.md", "docs/*", True),
        ("gitlog", ".git", False),
    ],
)
def test_what_is_left_out(path: str, pattern: str, out: bool) -> None:
    assert _release.excluded(path, [pattern]) is out


@pytest.mark.parametrize(
    "entry",
    [Entry("../x"), Entry("/etc/passwd"), Entry("a/l", target="../../x"), Entry("l", target="/etc/passwd")],
)
def test_nothing_leads_out_of_the_source(entry: Entry) -> None:
    with pytest.raises(ValueError, match="must stay inside"):
        _release.select([entry])


def test_a_link_inside_stays() -> None:
    assert _release.select([Entry("a/l", target="../b/x")])[0].target == "../b/x"


def test_the_folder_around_an_archive_goes() -> None:
    assert [e.path for e in _release.without_top([Entry("shop-1/manage.py"), Entry("shop-1/a/b")])] == [
        "manage.py",
        "a/b",
    ]
    assert [e.path for e in _release.without_top([Entry("manage.py"), Entry("a/b")])] == ["manage.py", "a/b"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("../shop", "must be a dictionary"),
        ({"type": "svn"}, "source.type must be one of"),
        ({}, "source.path is required"),
        ({"type": "git"}, "source.url is required"),
        ({"type": "archive"}, "exactly one of"),
        ({"type": "archive", "url": "https://x/y.zip"}, "source.checksum"),
        ({"path": "a", "version": "1"}, "source.version means nothing"),
        ({"path": ["a"]}, "source.path must be text"),
        ({"path": "a", "subdirectory": "../b"}, "source.subdirectory must stay inside"),
    ],
)
def test_bad_sources(raw: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _release.source(raw)


# --- the plugin -------------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "local").mkdir()
    monkeypatch.setattr(action.constants, "DEFAULT_LOCAL_TMP", str(tmp_path / "local"))
    monkeypatch.setattr(action.constants.config, "get_config_value", lambda _name: str(tmp_path / "home"))

    def run(**arguments: Any) -> dict[str, Any]:
        task = mock.Mock(args=arguments, async_val=0, check_mode=False)
        plugin = action.ActionModule(task, mock.Mock(), mock.Mock(), DataLoader(), None, None)
        result: dict[str, Any] = plugin.run(task_vars={})
        return result

    return run


@pytest.fixture
def shop(tmp_path: pathlib.Path) -> pathlib.Path:
    top = tmp_path / "shop"
    for path, text in {"manage.py": "1", "app/a.py": "2", "app/__pycache__/a.pyc": "3", ".git/HEAD": "4"}.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)
    (top / "manage.py").chmod(0o755)
    (top / "link").symlink_to("app")
    return top


def names(archive: str) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


def test_a_directory(make: Any, shop: pathlib.Path) -> None:
    arguments = {"source": {"path": str(shop)}, "exclude": [".git", "__pycache__"], "required": ["manage.py"]}
    first = make(**arguments)
    assert names(first["archive"]) == ["app/a.py", "link", "manage.py"]
    (shop / "app/a.py").touch()
    (shop / "app/__pycache__/b.pyc").write_text("5")
    assert make(**arguments)["id"] == first["id"]
    (shop / "app/a.py").write_text("6")
    assert make(**arguments)["id"] != first["id"]


def test_all_kinds_of_source_hold_the_same(make: Any, shop: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (shop / "link").unlink()
    wanted = make(source={"path": str(shop)}, exclude=[".git", "__pycache__"])

    with tarfile.open(tmp_path / "shop.tar.xz", "w:xz") as tar:
        tar.add(shop, arcname="shop-1.0")
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as bundle:
        for file in sorted(shop.rglob("*")):
            bundle.write(file, f"shop-1.0/{file.relative_to(shop)}")
    for name in ("shop.tar.xz", "shop.zip"):
        source = {"type": "archive", "path": str(tmp_path / name)}
        assert make(source=source, exclude=[".git", "__pycache__"])["id"] == wanted["id"]


def test_a_commit_names_the_release(make: Any, shop: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "init.defaultBranch=main"]
        done = subprocess.run(["git", *identity, *arguments], cwd=shop, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    (shop / ".git/HEAD").unlink()
    (shop / ".git").rmdir()
    git("init", "--quiet")
    git("add", "manage.py", "app/a.py")
    git("commit", "--quiet", "-m", "One")
    git("tag", "v1")
    source = {"type": "git", "url": str(shop), "version": "v1"}
    first = make(source=source)
    assert first["commit"] == git("rev-parse", "HEAD")
    assert first["id"].startswith(first["commit"][:12])
    assert names(first["archive"]) == ["app/a.py", "manage.py"]
    assert names(make(source={**source, "subdirectory": "app"})["archive"]) == ["a.py"]

    (shop / "app/a.py").write_text("7")
    git("commit", "--quiet", "-am", "Two")
    assert make(source=source)["id"] == first["id"]
    assert make(source={**source, "version": "main"})["commit"] == git("rev-parse", "HEAD")
    with pytest.raises(AnsibleActionFail, match="git rev-parse"):
        make(source={**source, "version": "v9"})
    # A commit that was fetched once needs the repository no more.
    shop.rename(tmp_path / "gone")
    assert make(source={**source, "version": first["commit"]})["id"] == first["id"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "source is required"),
        ({"source": {"path": "/nowhere"}}, "/nowhere"),
        ({"source": {"path": "."}, "also": 1}, "unknown option also"),
        ({"source": {"type": "archive", "path": "/nowhere.zip"}}, "nowhere.zip"),
        ({"source": {"type": "git", "url": "--upload-pack=x"}}, "must not begin with a dash"),
    ],
)
def test_refusals(make: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(AnsibleActionFail, match=words):
        make(**arguments)


@pytest.mark.parametrize("before", [None, 0o755])
def test_nobody_else_reads_the_mirrors(make: Any, shop: pathlib.Path, tmp_path: pathlib.Path, before: int) -> None:
    """They are private sources, and an address with a password stands in their settings."""
    folder = tmp_path / "home/webstack/git"
    if before:
        folder.mkdir(parents=True)
        folder.chmod(before)
    result = make(source={"path": str(shop)}, exclude=[".git", "__pycache__"])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert pathlib.Path(result["archive"]).stat().st_mode & 0o777 == 0o600


def test_a_missing_file_is_named(make: Any, shop: pathlib.Path) -> None:
    with pytest.raises(AnsibleActionFail, match=r"lacks requirements\.txt"):
        make(source={"path": str(shop)}, required=["manage.py", "requirements.txt"])


def test_a_download_is_compared(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action, "open_url", lambda *_args, **_options: io.BytesIO(b"something else"))
    with pytest.raises(AnsibleActionFail, match="checksum"):
        make(source={"type": "archive", "url": "https://example.com/x.tar", "checksum": "0" * 64})
