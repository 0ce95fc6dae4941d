# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make one archive of an application's source on the controller, and one identity for all hosts."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import posixpath
import re
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible import constants, context
from ansible.errors import AnsibleActionFail
from ansible.module_utils.urls import open_url
from ansible.plugins.action import ActionBase
from ansible.template import Templar, trust_as_template
from ansible_collections.webstack.ha.plugins.module_utils import (
    _authority,
    _pki_store,
    _release,
    _site_checks,
    _source_secrets,
)
from ansible_collections.webstack.ha.plugins.plugin_utils._role_inputs import specification

OPTIONS = frozenset({"source", "exclude", "inputs", "required"})
VERBS = frozenset({"clone", "remote", "rev-parse", "archive", "ls-tree"})
GIT_SECONDS = 600
#: What somebody's own git settings would change in the files.
PLAIN = ("-c", "core.autocrlf=false", "-c", "core.eol=lf")
COLLECTION = pathlib.Path(__file__).resolve().parents[2]
#: Settings of Ansible, and the options of its commands, that name files with a password.
PASSWORD_FILES = ("DEFAULT_VAULT_PASSWORD_FILE", "CONNECTION_PASSWORD_FILE", "BECOME_PASSWORD_FILE")
PASSWORD_OPTIONS = ("vault_password_files", "vault_ids", "connection_password_file", "become_password_file")
Found = tuple[list[_release.Entry], str | None]


class ActionModule(ActionBase):
    """webstack.ha.release: everything happens on the controller."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Collect the files, name the release, write the archive into this run's temporary directory."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        args = self._task.args
        unknown = sorted(set(args) - OPTIONS)
        if unknown:
            raise AnsibleActionFail(f"webstack.ha.release: unknown option {', '.join(unknown)}")
        if "source" not in args:
            raise AnsibleActionFail("webstack.ha.release: source is required")
        try:
            source = _release.source(args["source"])
            found, commit = getattr(self, f"_{source['type']}")(source)
            entries = _release.select(found, source["subdirectory"], args.get("exclude") or [])
            secrets = _source_secrets.found(entries, site_secrets(self._loader, task_vars or {}))
            if secrets:
                raise ValueError(_source_secrets.message(secrets))
            missing = _release.missing(entries, args.get("required") or [])
            if missing:
                raise ValueError(f"the source lacks {', '.join(missing)}")
            if problems := _release.incomplete(entries):
                raise ValueError(f"the source is incomplete: {'; '.join(problems)}")
            files = _release.digest(entries)
            # A commit does not say which of its folders were taken, and what was left out.
            name = (
                _release.release_id(commit, {"inputs": args.get("inputs"), "files": files})
                if commit
                else _release.release_id(files, args.get("inputs"))
            )
            content = _release.archive(entries)
        except (ValueError, OSError) as exc:
            raise AnsibleActionFail(f"webstack.ha.release: {exc}") from exc

        # This directory lives as long as the run, and its files are readable for this user only.
        path = pathlib.Path(constants.DEFAULT_LOCAL_TMP) / f"release-{name}.tar.gz"
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        os.replace(file.name, path)
        result.update(changed=False, id=name, archive=str(path), files=len(entries), size=len(content), commit=commit)
        return result

    def _here(self, path: str) -> pathlib.Path:
        """Return a path of the controller; a relative one is looked for beside the playbook, then where we are."""
        return pathlib.Path(self._loader.path_dwim(path))

    def _refuse_absent(self, found: Sequence[_release.Entry], source: dict[str, str], outer: Sequence[str]) -> None:
        patterns = self._task.args.get("exclude") or []
        absent = _release.absent_submodules(found, source["subdirectory"], patterns, outer)
        if source["type"] == "directory":
            # Here patterns count from the top of the directory too.
            absent = [path for path in absent if not _release.excluded(path, patterns)]
        if absent:
            raise ValueError(
                f"the source is incomplete: the submodule {_release.named(absent)} has no files; "
                "call git submodule update --init --recursive, or exclude it"
            )

    def _directory(self, source: dict[str, str]) -> Found:
        top = self._here(source["path"])
        if not top.is_dir():
            raise ValueError(f"source.path {source['path']!r} is no directory on the controller")
        patterns = self._task.args.get("exclude") or []
        entries = []
        for folder, folders, names in os.walk(top, onerror=_refuse):
            here = pathlib.Path(folder)
            # Left out early: node_modules alone can be a hundred thousand files.
            links = [name for name in folders if (here / name).is_symlink()]
            folders[:] = [
                name
                for name in folders
                if name not in links and not _release.excluded((here / name).relative_to(top).as_posix(), patterns)
            ]
            for name in [*names, *links]:
                file = here / name
                path = file.relative_to(top).as_posix()
                if _release.excluded(path, patterns):
                    continue
                if file.is_symlink():
                    entries.append(_release.Entry(path, target=os.readlink(file)))
                elif file.is_file():
                    # The mode, not what this user may do: root and a mount without exec would say something else.
                    entries.append(_release.Entry(path, file.read_bytes(), bool(file.stat().st_mode & 0o100)))
                else:
                    raise ValueError(f"{path} is neither a file, a link nor a folder; exclude it")
        self._refuse_absent(entries, source, _outer_submodules(top))
        return entries, None

    def _archive(self, source: dict[str, str]) -> Found:
        if "url" in source:
            data: bytes = open_url(source["url"], http_agent="webstack.ha", timeout=60).read()
        else:
            data = self._here(source["path"]).read_bytes()
        wanted = source.get("checksum", "").removeprefix("sha256:").lower()
        if wanted and hashlib.sha256(data).hexdigest() != wanted:
            raise ValueError(f"source.checksum is {wanted}, the archive has {hashlib.sha256(data).hexdigest()}")
        found = _release.without_top(_release.from_archive(data))
        self._refuse_absent(found, source, [])
        return found, None

    def _git(self, source: dict[str, str]) -> Found:
        url, version = source["url"], source.get("version", "HEAD")
        if version.startswith("-") or url.startswith("-"):
            raise ValueError("source.url and source.version must not begin with a dash")
        mirror = self._mirror(url, version)
        commit = self._command("-C", str(mirror), "rev-parse", "--verify", "--quiet", f"{version}^{{commit}}")
        identity = commit.decode().strip()
        return self._tree(mirror, url, identity, source["subdirectory"]), identity

    def _mirror(self, url: str, version: str, trusted: bool = True) -> pathlib.Path:
        """Keep a mirror in Ansible's home, so that a second deployment fetches what is new."""
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
        mirror = pathlib.Path(constants.config.get_config_value("ANSIBLE_HOME")) / "webstack" / "git" / name
        _keep_private(mirror.parent)
        if not (mirror / "HEAD").is_file():
            # Whole or not at all: half of a clone would be taken for a mirror by the next run.
            with tempfile.TemporaryDirectory(dir=mirror.parent, prefix=f".{name}-") as fresh:
                self._command("clone", "--quiet", "--mirror", "--", url, f"{fresh}/mirror", trusted=trusted)
                try:
                    os.rename(f"{fresh}/mirror", mirror)
                except OSError:
                    if not (mirror / "HEAD").is_file():  # else another run was quicker
                        raise
        elif not self._has_commit(mirror, version):
            self._command("-C", str(mirror), "remote", "update", "--prune", trusted=trusted)
        # What a maintainer leaves out of published archives may well be needed here.
        (mirror / "info").mkdir(exist_ok=True)
        (mirror / "info/attributes").write_text("* -export-ignore -export-subst\n")
        return mirror

    def _tree(
        self, mirror: pathlib.Path, url: str, commit: str, subdirectory: str, above: str = ""
    ) -> list[_release.Entry]:
        """Return the files of a commit and of its submodules; `above` is where they lie in the source."""
        where = ["-C", str(mirror)]
        found = [
            dataclasses.replace(entry, path=posixpath.join(above, entry.path))
            for entry in _release.from_tar(self._command(*where, *PLAIN, "archive", "--format=tar", commit))
        ]
        patterns = self._task.args.get("exclude") or []
        listing = self._command(*where, "ls-tree", "-r", "-z", "--full-tree", commit).decode(errors="surrogateescape")
        heads = (line.split("\t", 1) for line in listing.split("\0") if "\t" in line)
        links = {path: head.split()[2] for head, path in heads if head.startswith("160000 ")}
        urls: dict[str, str] = {}
        for entry in found:
            if links and entry.path == posixpath.join(above, ".gitmodules"):
                urls = _release.submodules(entry.content.decode(errors="replace"), entry.path)
        for path, pinned in sorted(links.items()):
            place = posixpath.join(above, path)
            if not _release.concerns(place, subdirectory, patterns):
                continue
            if not urls.get(path) or urls[path].startswith("-"):
                raise ValueError(f"the source is incomplete: .gitmodules has no address of the submodule {place}")
            address = _absolute(urls[path], url)
            # As git itself does: a repository from elsewhere must not name a directory of this machine.
            inner = self._mirror(address, pinned, trusted=_is_local(url))
            if not self._has_commit(inner, pinned):
                raise ValueError(
                    f"the source is incomplete: {address} lacks {pinned}, the commit of the submodule {place}"
                )
            found += self._tree(inner, address, pinned, subdirectory, place)
        return found

    def _has_commit(self, mirror: pathlib.Path, version: str) -> bool:
        """A full commit never changes its meaning, so one that is here needs no network."""
        if len(version) != 40 or not all(digit in "0123456789abcdef" for digit in version):
            return False
        check = ["git", "-C", str(mirror), "cat-file", "-e", f"{version}^{{commit}}"]
        return subprocess.run(check, capture_output=True, check=False).returncode == 0

    @staticmethod
    def _command(*arguments: str, trusted: bool = True) -> bytes:
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
        # A hook or another checkout around this run must not decide which repository is meant.
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"):
            environment.pop(name, None)
        if not trusted:
            environment["GIT_PROTOCOL_FROM_USER"] = "0"
        verb = next(word for word in arguments if word in VERBS)
        try:
            done = subprocess.run(
                ["git", *arguments], capture_output=True, check=False, env=environment, timeout=GIT_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise ValueError(f"git {verb} {arguments[-1]}: no end after {GIT_SECONDS} seconds") from None
        if done.returncode != 0:
            reason = done.stderr.decode(errors="replace").strip() or "no such version"
            # An address may hold a password.
            raise ValueError(re.sub(r"://[^/@\s]+@", "://***@", f"git {verb} {arguments[-1]}: {reason}"))
        return done.stdout


def _refuse(error: OSError) -> None:
    raise error


def _outer_submodules(top: pathlib.Path) -> list[str]:
    """Return the submodules of the checkout that a directory lies in, relative to it; those beside it do not count."""
    for parent in top.parents:
        if (top / ".git").exists():
            break
        if (parent / ".git").exists():
            try:
                text = (parent / ".gitmodules").read_text(errors="replace")
            except FileNotFoundError:
                return []
            here = top.relative_to(parent).as_posix()
            paths = _release.submodules(text, str(parent / ".gitmodules"))
            return [posixpath.relpath(path, here) for path in paths if path.startswith(f"{here}/")]
    return []


def _is_local(url: str) -> bool:
    """Say whether an address is a directory of this machine, as git judges it."""
    return url.startswith("file://") or ("://" not in url and (":" not in url or "/" in url.partition(":")[0]))


def _absolute(url: str, base: str) -> str:
    """Return a submodule's address; one that begins with ./ or ../ is beside the repository that names it."""
    if not url.startswith(("./", "../")):
        return url
    if "://" in base:
        parts = urllib.parse.urlsplit(base)
        return parts._replace(path=posixpath.normpath(posixpath.join(parts.path, url))).geturl()
    head, colon, path = ("", "", base) if _is_local(base) else base.partition(":")
    return f"{head}{colon}{posixpath.normpath(posixpath.join(path, url))}"


def _keep_private(folder: pathlib.Path) -> None:
    """Close the folder of the mirrors: they hold private sources, and in their settings perhaps a password."""
    if folder.is_dir():
        folder.chmod(0o700)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


def site_secrets(loader: Any, task_vars: Mapping[str, Any]) -> _source_secrets.Known:
    """Return the secrets of the site, wherever they are: none of them belongs into a release."""
    site = _site_checks.parse_site(specification(str(COLLECTION / "meta/site_specs.yml")))
    hostvars, groups = task_vars.get("hostvars") or {}, task_vars.get("groups") or {}
    hosts = [*_site_checks.members(site, groups), *(task_vars.get("ansible_play_hosts_all") or ())]
    directories: set[str] = set()
    values: dict[str, list[str]] = {}
    seen: set[tuple[str, str]] = set()
    for host in dict.fromkeys(hosts):
        raw = _raw(hostvars, host)
        templar = Templar(loader=loader, variables=raw)
        places = [
            trust_as_template(_authority.DEFAULT),
            *(raw[name] for name in map(_authority.variable, _authority.FILES) if name in raw),
        ]
        directories.update(path for path in _templated(templar, places) if isinstance(path, str))
        for name in raw:
            # The same expression on all hosts is worked out once: it may ask a password store.
            if _is_ours(name, site.secrets) and (name, str(raw[name])) not in seen:
                seen.add((name, str(raw[name])))
                for value in _templated(templar, [raw[name]]):
                    values.setdefault(name, []).extend(_texts(value))
    # The role's own variables of this play, which no inventory has.
    directories.update(str(task_vars[name]) for name in map(_authority.variable, _authority.FILES) if name in task_vars)
    files: dict[str, bytes] = {}
    for directory in sorted(directories):
        if _pki_store.directory_error(directory) is None:
            _read(files, pathlib.Path(_pki_store.absolute(directory)).glob("*.key"), "a key of the internal authority")
    _read(files, _password_files(), "a password file of Ansible")
    sources = [pathlib.Path(str(source)) for source in task_vars.get("ansible_inventory_sources") or ()]
    folders = [source if source.is_dir() else source.parent for source in sources if source.exists()]
    _read(files, (folder / "group_vars/all/secrets.yml" for folder in folders), "the secrets of this site")
    unique = {name: sorted(set(found)) for name, found in values.items()}
    return _source_secrets.Known(files=files, values=unique, names=site.secrets)


def _is_ours(name: str, secrets: Iterable[str]) -> bool:
    prefixes = (
        "webstack_",
        "lb_nginx_",
        "vip_failover_",
        "was_django_",
        "redis_",
        "mysql_",
        "backup_",
        "shared_media_",
    )
    return name in secrets or (name.startswith(prefixes) and _site_checks.is_secret(name))


def _raw(hostvars: Any, host: str) -> dict[str, Any]:
    get = getattr(hostvars, "raw_get", None)
    return dict(get(host) if get else hostvars[host])


def _templated(templar: Templar, expressions: Iterable[Any]) -> Iterator[Any]:
    for expression in expressions:
        try:
            yield templar.template(expression)
        except Exception:  # whatever an expression raises: what has no value is in no file
            continue


def _texts(value: Any) -> Iterator[str]:
    """Return the texts of a secret: one, or several in a list or mapping, as old passwords are."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)


def _password_files() -> Iterator[pathlib.Path]:
    named = [getattr(constants, name, None) for name in PASSWORD_FILES]
    named += list(constants.DEFAULT_VAULT_IDENTITY_LIST or ())
    for option in PASSWORD_OPTIONS:
        given = context.CLIARGS.get(option)
        named += given if isinstance(given, (list, tuple)) else [given]
    for name in named:
        text = str(name or "").rpartition("@")[2]  # label@file
        path = pathlib.Path(text).expanduser()
        # A program that says the password is no secret itself.
        if text and not text.startswith("prompt") and path.is_file() and not os.access(path, os.X_OK):
            yield path


def _read(files: dict[str, bytes], paths: Iterable[pathlib.Path], what: str) -> None:
    for path in paths:
        if path.is_file():
            files[f"{what}, {path.name}"] = path.read_bytes()
