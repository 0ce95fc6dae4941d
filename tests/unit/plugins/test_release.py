"""What makes a release: its name and its archive depend on the content, and on nothing else."""

from __future__ import annotations

import io
import os
import pathlib
import shutil
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
        return [member.name for member in tar if not member.isdir()]


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
    (shop / ".git/HEAD").unlink()
    (shop / ".git").rmdir()
    commit(shop)
    result = make(source={"type": "git", "url": str(shop)})
    assert folder.stat().st_mode & 0o777 == 0o700
    assert pathlib.Path(result["archive"]).stat().st_mode & 0o777 == 0o600


def test_a_missing_file_is_named(make: Any, shop: pathlib.Path) -> None:
    with pytest.raises(AnsibleActionFail, match=r"lacks requirements\.txt"):
        make(source={"path": str(shop)}, required=["manage.py", "requirements.txt"])


def test_a_download_is_compared(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action, "open_url", lambda *_args, **_options: io.BytesIO(b"something else"))
    with pytest.raises(AnsibleActionFail, match="checksum"):
        make(source={"type": "archive", "url": "https://example.com/x.tar", "checksum": "0" * 64})


# --- a source that is incomplete --------------------------------------------------------------------

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"


def commit(folder: pathlib.Path, *more: str) -> str:
    """Commit everything in a folder, which becomes a repository."""

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "init.defaultBranch=main"]
        options = [*who, "-c", "protocol.file.allow=always"]
        done = subprocess.run(["git", *options, *arguments], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet")
    if more:
        git(*more)
    git("add", "--all")
    git("commit", "--quiet", "-m", "x")
    return git("rev-parse", "HEAD")


@pytest.fixture
def nested(tmp_path: pathlib.Path) -> pathlib.Path:
    """A repository with a submodule, named by a relative address, that has a submodule itself."""
    for name in ("inner", "middle", "top"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(name)
    commit(tmp_path / "inner")
    commit(tmp_path / "middle", "submodule", "--quiet", "add", str(tmp_path / "inner"), "vendor/inner")
    commit(tmp_path / "top")
    commit(tmp_path / "top", "submodule", "--quiet", "add", "../middle", "libs/middle")
    return tmp_path / "top"


@pytest.fixture(autouse=True)
def a_user_of_his_own(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> pathlib.Path:
    """Nobody's git settings but these."""
    file = tmp_path / "gitconfig"
    file.write_text("[core]\n\tautocrlf = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(file))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return file


def test_submodules_are_fetched(make: Any, nested: pathlib.Path) -> None:
    source = {"type": "git", "url": str(nested)}
    found = names(make(source=source)["archive"])
    assert [name for name in found if name.endswith(".py")] == [
        "libs/middle/middle.py",
        "libs/middle/vendor/inner/inner.py",
        "top.py",
    ]
    assert names(make(source={**source, "subdirectory": "libs/middle/vendor/inner"})["archive"]) == ["inner.py"]
    # What is left out is not fetched, so an address that nobody can reach does no harm.
    (nested.parent / "inner").rename(nested.parent / "gone")
    shutil.rmtree(nested.parent / "home")
    assert names(make(source=source, exclude=["vendor"])["archive"]) == [
        ".gitmodules",
        "libs/middle/.gitmodules",
        "libs/middle/middle.py",
        "top.py",
    ]
    with pytest.raises(AnsibleActionFail, match="git clone"):
        make(source=source)


def test_a_submodule_is_refused_that_cannot_be_fetched(make: Any, nested: pathlib.Path) -> None:
    (nested / ".gitmodules").unlink()
    commit(nested)
    with pytest.raises(AnsibleActionFail, match=r"no address of the submodule libs/middle"):
        make(source={"type": "git", "url": str(nested)})


def test_a_repository_from_elsewhere_names_no_directory_of_this_machine(
    make: Any, nested: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (nested / ".gitmodules").read_text()
    (nested / ".gitmodules").write_text(text.replace("../middle", str(nested.parent / "middle")))
    commit(nested)
    monkeypatch.setattr(action, "_is_local", lambda _url: False)
    with pytest.raises(AnsibleActionFail, match="transport 'file' not allowed"):
        make(source={"type": "git", "url": str(nested)})


@pytest.mark.parametrize(
    ("url", "base", "wanted"),
    [
        ("https://x.example/a.git", "https://y.example/b.git", "https://x.example/a.git"),
        ("../a.git", "https://y.example/team/b.git", "https://y.example/team/a.git"),
        ("../../o/a.git", "https://y.example/team/b.git", "https://y.example/o/a.git"),
        ("./a", "/srv/b", "/srv/b/a"),
        ("../a", "/srv/b", "/srv/a"),
        ("../a.git", "git@y.example:team/b.git", "git@y.example:team/a.git"),
    ],
)
def test_addresses_of_submodules(url: str, base: str, wanted: str) -> None:
    assert action._absolute(url, base) == wanted


@pytest.mark.parametrize("kind", ["directory", "archive", "below"])
def test_a_submodule_without_files_is_refused(
    make: Any, nested: pathlib.Path, tmp_path: pathlib.Path, kind: str
) -> None:
    """A checkout without --recursive, and what forges offer for download."""
    shutil.rmtree(nested / "libs/middle/vendor/inner")
    (nested / "libs/middle/vendor/inner").mkdir()
    source = {"path": str(nested)}
    path = "libs/middle/vendor/inner"
    if kind == "below":
        shutil.rmtree(nested / "libs/middle")
        (nested / "libs/other.py").write_text("1")
        source, path = {"path": str(nested / "libs")}, "middle"
    if kind == "archive":
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            tar.add(nested, arcname="top-1.0")
        source = {"type": "archive", "path": str(tmp_path / "x.tar")}
    with pytest.raises(AnsibleActionFail, match=f"incomplete: the submodule {path} has no files"):
        make(source=source, exclude=[".git"])
    assert make(source=source, exclude=[".git", path])["files"] >= 1
    assert make(source=source, exclude=[".git", path.rpartition("/")[2]])["files"] >= 1


@pytest.mark.parametrize("kind", ["directory", "git", "archive"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, "logo.png: a pointer of Git LFS"),
        ("/annex/objects/SHA256E-s5--x.png\n", "logo.png: a pointer of git-annex"),
        ("\0GITCRYPT\0secret", "logo.png: encrypted by git-crypt"),
    ],
)
def test_a_stand_in_is_refused_by_name(make: Any, shop: pathlib.Path, kind: str, content: str, words: str) -> None:
    shutil.rmtree(shop / ".git")
    (shop / "logo.png").write_text(content)
    source = {"path": str(shop)}
    if kind == "git":
        commit(shop)
        source = {"type": "git", "url": str(shop)}
    elif kind == "archive":
        with zipfile.ZipFile(shop / "x.zip", "w") as bundle:
            bundle.writestr("x/top.py", "1")
            bundle.writestr("x/logo.png", content)
        source = {"type": "archive", "path": str(shop / "x.zip")}
    with pytest.raises(AnsibleActionFail, match=words):
        make(source=source, exclude=[".git"])
    assert make(source=source, exclude=[".git", "*.png"])["files"] >= 1


def test_a_stand_in_in_a_submodule_is_refused_by_name(make: Any, nested: pathlib.Path) -> None:
    module = nested / "libs/middle"
    (module / "logo.png").write_text(POINTER)
    commit(module)
    commit(nested)
    # The address that .gitmodules names has the commit too.
    subprocess.run(["git", "-C", str(module), "push", "-q", str(nested.parent / "middle"), "HEAD:x"], check=True)
    with pytest.raises(AnsibleActionFail, match=r"libs/middle/logo\.png: a pointer of Git LFS"):
        make(source={"type": "git", "url": str(nested)})


def test_a_commit_that_a_submodule_lacks_is_named(make: Any, nested: pathlib.Path) -> None:
    (nested / "libs/middle/new.py").write_text("never pushed")
    pinned = commit(nested / "libs/middle")
    commit(nested)
    with pytest.raises(AnsibleActionFail, match=f"middle lacks {pinned}, the commit of the submodule libs/middle"):
        make(source={"type": "git", "url": str(nested)})


def test_lfs_files_come_where_git_can_get_them(make: Any, shop: pathlib.Path, a_user_of_his_own: pathlib.Path) -> None:
    """As `git lfs install` sets it up on the controller; the filter here stands for git-lfs."""
    shutil.rmtree(shop / ".git")
    (shop / ".gitattributes").write_text("*.png filter=lfs -text\n")
    (shop / "logo.png").write_text(POINTER)
    commit(shop)
    with a_user_of_his_own.open("a") as file:
        file.write('[filter "lfs"]\n\tsmudge = printf PICTURE\n\trequired = true\n')
    made = make(source={"type": "git", "url": str(shop)})
    with tarfile.open(made["archive"]) as tar:
        picture = tar.extractfile("logo.png")
        assert picture is not None
        assert picture.read() == b"PICTURE"


def test_a_release_has_what_published_archives_leave_out(make: Any, shop: pathlib.Path) -> None:
    shutil.rmtree(shop / ".git")
    (shop / ".gitattributes").write_text("app export-ignore\nversion.py export-subst\n")
    (shop / "version.py").write_text("V = '$Format:%H$'\n")
    commit(shop)
    made = make(source={"type": "git", "url": str(shop)}, exclude=["__pycache__"])
    assert "app/a.py" in names(made["archive"])
    with tarfile.open(made["archive"]) as tar:
        version = tar.extractfile("version.py")
        assert version is not None
        assert version.read() == b"V = '$Format:%H$'\n"


def test_other_files_of_one_commit_make_another_release(make: Any, shop: pathlib.Path) -> None:
    shutil.rmtree(shop / ".git")
    commit(shop)
    source = {"type": "git", "url": str(shop)}
    made = [
        make(source=source),
        make(source=source, exclude=["link"]),
        make(source={**source, "subdirectory": "app"}),
    ]
    assert len({one["commit"] for one in made}) == 1
    assert len({one["id"] for one in made}) == 3


@pytest.mark.parametrize(
    ("target", "good"), [("app", True), ("app/a.py", True), (".", True), ("nowhere", False), ("app/__pycache__", False)]
)
def test_a_link_that_leads_nowhere_is_refused(make: Any, shop: pathlib.Path, target: str, good: bool) -> None:
    (shop / "again").symlink_to("link")
    (shop / "link").unlink()
    (shop / "link").symlink_to(target)
    arguments = {"source": {"path": str(shop)}, "exclude": [".git", "__pycache__"]}
    if good:
        assert "again" in names(make(**arguments)["archive"])
        return
    with pytest.raises(
        AnsibleActionFail, match=f"again -> link, link -> {target}: a link to what is not in the source"
    ):
        make(**arguments)


def test_a_circle_of_links_is_refused(make: Any, shop: pathlib.Path) -> None:
    (shop / "one").symlink_to("two")
    (shop / "two").symlink_to("one")
    with pytest.raises(AnsibleActionFail, match="one -> two, two -> one"):
        make(source={"path": str(shop)}, exclude=[".git", "__pycache__"])


def test_a_folder_that_cannot_be_read_is_no_empty_folder(
    make: Any, shop: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("/app"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(AnsibleActionFail, match="Permission denied"):
        make(source={"path": str(shop)}, exclude=[".git"])


def test_what_is_no_file_is_refused(make: Any, shop: pathlib.Path, tmp_path: pathlib.Path) -> None:
    os.mkfifo(shop / "app/pipe")
    with pytest.raises(AnsibleActionFail, match="app/pipe is neither a file"):
        make(source={"path": str(shop)}, exclude=[".git"])
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(shop, arcname="shop")
    with pytest.raises(AnsibleActionFail, match="app/pipe is neither a file"):
        make(source={"type": "archive", "path": str(tmp_path / "x.tar")})


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip"])
def test_an_archive_that_is_cut_off_is_refused(
    make: Any, shop: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    whole = tmp_path / name
    if name.endswith("zip"):
        with zipfile.ZipFile(whole, "w") as bundle:
            bundle.write(shop / "manage.py", "manage.py")
    else:
        with tarfile.open(whole, "w:gz" if name.endswith("gz") else "w") as tar:
            for member in ("manage.py", "app/a.py"):
                tar.add(shop / member, arcname=member)
    content = whole.read_bytes()
    source = {"type": "archive", "path": str(whole)}
    assert make(source=source)["files"] >= 1
    # A plain tar at every border between two members, others in the middle.
    cuts = range(0, 2048, 512) if name == "x.tar" else [len(content) // 2, len(content) - 10]
    for cut in cuts:
        whole.write_bytes(content[:cut])
        with pytest.raises(AnsibleActionFail, match=r"cut off|cannot be read"):
            make(source=source)


def test_a_zip_keeps_its_links_and_a_tar_may_end_in_a_zip(
    make: Any, shop: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as bundle:
        bundle.write(shop / "manage.py", "manage.py")
        link = zipfile.ZipInfo("again")
        link.external_attr = 0o120777 << 16
        bundle.writestr(link, "manage.py")
    with tarfile.open(make(source={"type": "archive", "path": str(tmp_path / "x.zip")})["archive"]) as tar:
        assert tar.getmember("again").linkname == "manage.py"
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(shop / "app/a.py", arcname="a.py")
        tar.add(tmp_path / "x.zip", arcname="x.zip")
    assert names(make(source={"type": "archive", "path": str(tmp_path / "x.tar")})["archive"]) == ["a.py", "x.zip"]


def test_half_of_a_clone_is_not_used_again(make: Any, shop: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.rmtree(shop / ".git")
    commit(shop)
    source = {"type": "git", "url": str(shop)}
    real = subprocess.run

    def killed(command: list[str], **_options: Any) -> Any:
        real(["git", "init", "--quiet", "--bare", command[-1]], check=True)
        raise OSError("killed")

    with mock.patch.object(action.subprocess, "run", side_effect=killed), pytest.raises(AnsibleActionFail):
        make(source=source)
    assert list((tmp_path / "home/webstack/git").iterdir()) == []
    assert make(source=source)["files"] >= 1


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o027, 0o077])
def test_the_surroundings_decide_no_mode(make: Any, shop: pathlib.Path, umask: int) -> None:
    """Neither the umask of whoever runs it nor that of whoever checked out the source."""
    before = os.umask(umask)
    try:
        (shop / "app/b.py").write_text("b")
        (shop / "app").chmod(0o777 & ~umask)
        made = make(source={"path": str(shop)}, exclude=[".git", "__pycache__"])
    finally:
        os.umask(before)
    with tarfile.open(made["archive"]) as tar:
        modes = {member.name: oct(member.mode) for member in tar if not member.issym()}
    assert modes == {"app": "0o755", "app/a.py": "0o644", "app/b.py": "0o644", "manage.py": "0o755"}
