#!/usr/bin/python
# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The host's half of webstack.ha.files.

A self-contained script without ansible.module_utils: those cost a host more time to load than everything
this module does. It gets its arguments the documented way for such modules, by the marker in main().
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Write all files of a role in one call
version_added: 0.1.0
description:
  - Renders every file of a role on the controller and compares, checks and writes all of them in one
    module execution, where a task per file would pay the price of a module start for each.
  - Either everything is in place at the end or nothing has changed. When a check refuses a file, or
    anything else goes wrong, every file of the call is put back as it was.
  - Templates mean the same as with M(ansible.builtin.template), including C(ansible_managed), the
    C(template_*) variables, includes, and blocks being trimmed.
author:
  - webstack.ha maintainers (@webstack-ha)
options:
  files:
    description:
      - The files, in order. May be one expression that gives a list.
      - A key that is not listed here, or that means nothing in an entry's state, is refused.
      - Parent directories that are absent are created with mode V(0755), owned by root.
    type: list
    elements: dict
    required: true
    suboptions:
      dest:
        description: Absolute path on the host. Stands only once in a call.
        type: str
        required: true
      state:
        description:
          - What O(files[].dest) should be.
          - V(file) replaces a file or a link, never a directory. V(directory) keeps a link to a directory.
          - A link on the way to a directory is followed where root alone can have put it. Where another account may
            write it is refused by name, and so is a file with a second name whose owner or mode would change.
          - V(link) replaces a file or a link, never a directory.
          - V(absent) refuses a directory that is not empty unless O(files[].recursive=true).
        type: str
        choices: [file, directory, link, absent]
        default: file
      src:
        description:
          - For V(file), the name of a file on the controller, looked for in C(templates/), then in C(files/).
            A name that ends in C(.j2) is rendered, any other is copied byte by byte. A file encrypted by
            ansible-vault is decrypted, and treated as O(files[].secret).
          - For V(link), where the link points to, taken literally.
        type: str
      content:
        description: The text itself, instead of O(files[].src).
        type: str
      vars:
        description: More variables for this template.
        type: dict
      force:
        description: V(false) leaves the content of a file that exists as it is; what wrote it since knows better.
        type: bool
        default: true
      mode:
        description: Quoted octal digits. Default V(0644), for directories V(0755).
        type: str
      owner:
        description: Name or number of the owner.
        type: str
        default: root
      group:
        description: Name or number of the group.
        type: str
        default: root
      validate:
        description:
          - A command that checks a copy of the new file before it replaces the old one. C(%s) is the copy's
            name. The copy lies in the same directory, begins with a dot and ends like the real name.
          - Text is split into words; no shell is involved. A list is taken as it is.
        type: raw
      secret:
        description: Hides the content in the diff, and the file's words in the output of checks.
        type: bool
        default: false
      purge:
        description:
          - For V(directory), patterns of file names. A file or link in the directory itself that fits one of them and
            that no entry of the call names is removed. So a list that was made from what a role brings also takes
            away what the role brings no more.
        type: raw
      recursive:
        description: Lets V(absent) remove a directory that is not empty.
        type: bool
        default: false
  validate:
    description:
      - A command that runs once, after all files are in place, when something has changed. If it fails, all
        files are put back and the task fails with the command's output. A check that does not end within half an hour
        has failed.
      - Text is split into words; no shell is involved. A list is taken as it is.
    type: raw
  validate_always:
    description: Runs O(validate) also when nothing has changed.
    type: bool
    default: false
  host_program:
    description:
      - Brings the program C(webstack) of the collection to the host, C(/usr/local/sbin/webstack), before the files are
        placed and checked. A host that has it costs a look at two links.
      - It lies in a directory of C(/usr/local/lib/webstack) that is named by its content, and the link C(current) says
        which one counts. When the call fails, the link is put back. A directory that is not current goes as soon as
        no process runs what is in it.
      - What an earlier version of the program kept in other places is moved, never made again. A link stays there for
        what still runs and goes with it. Where both places hold something the call is refused and names them.
    type: bool
    default: false
    version_added: 0.2.0
  notices:
    description:
      - What these tiers of C(webstack) tell others. Writes it to C(/etc/webstack/notices-TIER.json), with the unit
        C(webstack-alarm@.service) that units name in C(OnFailure), and with a line for cron when metrics are wanted.
        Cron is started then, now and at boot, if it does not run; RV(changed_files) names its unit in this case.
    type: dict
    version_added: 0.2.0
    suboptions:
      tiers:
        description: The tiers that the role brings.
        type: list
        elements: str
        required: true
      metrics_directory:
        description: Where each of them writes C(webstack_status_TIER.prom) once a minute. Empty for nowhere.
        type: str
        required: true
      alarm_command:
        description: The command and its arguments, run when a unit has failed. Empty for none.
        type: list
        elements: str
        required: true
  settled:
    description:
      - What holds on a host on which nothing is left to do. It is asked in the same call when no file changes, in check
        mode too, and the answer is RV(settled). So one question says whether the tasks that follow have anything to do.
      - Empty, it says only whether a file changes.
    type: dict
    version_added: 0.2.0
    suboptions:
      units:
        description:
          - Units of systemd, each with O(settled.units[].name) and, where it matters, whether it is
            O(settled.units[].enabled) and whether it is O(settled.units[].running).
        type: list
        elements: dict
        suboptions:
          name:
            description: The unit's name with its ending.
            type: str
            required: true
          enabled:
            description: Whether it starts at boot. Not asked when absent.
            type: bool
          running:
            description: Whether it is active. Not asked when absent.
            type: bool
      commands:
        description:
          - Commands that change nothing and succeed within a minute each. They are asked after the units, in order, up
            to the first that does not.
          - Text is split into words; no shell is involved. A list is taken as it is.
        type: list
        elements: raw
attributes:
  check_mode:
    description: Reports what would change. Runs no command, and tolerates owners, groups, parents and programs
      that do not exist yet.
    support: full
  diff_mode:
    description: Shows content, mode, owner and group, but no content of secret files.
    support: full
notes:
  - A host needs Python 3.11 or later and nothing else.
  - Owners default to root, so the task needs C(become) where the login is not root.
seealso:
  - module: ansible.builtin.template
  - module: ansible.builtin.copy
  - module: ansible.builtin.file
"""

EXAMPLES = r"""
- name: Write the balancer's configuration
  webstack.ha.files:
    files:
      - src: nginx.conf.j2
        dest: /etc/nginx/nginx.conf
      - src: site.conf.j2
        dest: /etc/nginx/sites-available/shop
        vars:
          site_port: 8443
      - dest: /etc/nginx/sites-enabled/shop
        state: link
        src: ../sites-available/shop
      - dest: /etc/nginx/sites-enabled/default
        state: absent
      - dest: /var/cache/nginx/shop
        state: directory
        owner: www-data
        mode: "0750"
    validate: nginx -t
  notify: Reload nginx

- name: Write a service, and see whether it is left to start or to restart
  webstack.ha.files:
    files:
      - src: shop.service
        dest: /etc/systemd/system/shop.service
    settled:
      units:
        - {name: shop.service, enabled: true, running: true}
      commands:
        - /usr/local/bin/shop --is-current
  register: written

- name: Run the service
  ansible.builtin.include_tasks: service.yml
  when: not written.settled

- name: Write a rule that must never lock anybody out, and a password
  webstack.ha.files:
    files:
      - content: "deploy ALL=(root) NOPASSWD: /usr/bin/systemctl reload nginx\n"
        dest: /etc/sudoers.d/deploy
        mode: "0440"
        validate: visudo -cf %s
      - content: "{{ shop_password }}\n"
        dest: /etc/shop/password
        mode: "0600"
        secret: true

- name: Write one file for each site
  webstack.ha.files:
    files: "{{ shop_sites | map('combine', {'src': 'site.conf.j2'}) }}"
"""

RETURN = r"""
changed_files:
  description: The O(files[].dest) of every entry that changed or, in check mode, would change.
  returned: success
  type: list
  elements: str
  sample: [/etc/nginx/nginx.conf]
settled:
  description: Whether no file changes and all of O(settled) holds.
  returned: with O(settled), on success
  type: bool
unsettled:
  description: What does not hold.
  returned: with O(settled), on success
  type: list
  elements: str
  sample: ["nginx.service is inactive"]
diff:
  description: What changed in each file. Only with C(--diff).
  returned: when changed, in diff mode
  type: list
  elements: dict
file:
  description: The file at fault.
  returned: on failure, when one file is at fault
  type: str
cmd:
  description: The command that refused.
  returned: when a check failed
  type: list
  elements: str
rc:
  description: Its exit code.
  returned: when a check failed
  type: int
stdout:
  description: Its standard output, without words from secret files.
  returned: when a check failed
  type: str
stderr:
  description: Its error output, without words from secret files.
  returned: when a check failed
  type: str
restored:
  description: The files that were put back as they had been.
  returned: on failure
  type: list
  elements: str
not_restored:
  description: The files that could not be put back, each with the reason. Look at them.
  returned: on failure, when there are any
  type: list
  elements: str
"""

import binascii
import contextlib
import fnmatch
import grp
import json
import os
import pwd
import re
import signal
import stat
import sys
import zlib
from typing import Any, NoReturn

HIDDEN = "[hidden: secret]\n"
DIFF_LIMIT = 104448
#: For a check, which may ask a repository far away. One that hangs would hold the run for ever.
CHECK_SECONDS = 1800
#: What a directory with a program of the hosts is called, and one that a run was about to remove.
DIGEST = re.compile(r"[0-9a-f]{16}|\.[0-9a-f]{16}\.gone")


class Refused(Exception):
    """The wanted state cannot be reached; fields go into the result."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.fields = fields


class NoDirectory(Refused):
    """Something else lies on the way, so nothing can lie there."""


def _may_replace(folder: os.stat_result, entry: os.stat_result) -> bool:
    """Whether an account that is neither root nor ours may put something else in the place of a directory's entry."""
    ours = (0, os.geteuid())
    writable = folder.st_mode & stat.S_IWOTH or (
        folder.st_mode & stat.S_IWGRP and folder.st_gid not in (0, os.getegid())
    )
    if folder.st_uid in ours and folder.st_mode & stat.S_ISVTX:
        return bool(writable) and entry.st_uid not in ours
    return folder.st_uid not in ours or bool(writable)


class Folder:
    """A directory that is held open: what its path leads to may change, this one is the one that was looked at."""

    def __init__(self, handle: int, foreign: str) -> None:
        self.handle = handle
        # The directory on the way here in which another account may write; empty if there is none.
        self.foreign = foreign

    @property
    def path(self) -> str:
        return f"/proc/self/fd/{self.handle}"


class Folders:
    """Directories by their paths, each opened step by step.

    A link on the way is followed where only root can have put it, for instance to another disk. Where another account
    may write, it could lead anywhere.
    """

    def __init__(self) -> None:
        self.known: dict[str, Folder] = {}

    def close(self) -> None:
        for folder in self.known.values():
            os.close(folder.handle)
        self.known.clear()

    def find(self, path: str) -> Folder | None:
        """Return the directory; None when it does not exist. Refuse a link that another account may have made."""
        if path not in self.known:
            folder = self._open(path)
            if folder is None:
                return None
            self.known[path] = folder
        return self.known[path]

    def _open(self, path: str) -> Folder | None:
        here, shown = Folder(os.open("/", os.O_PATH | os.O_CLOEXEC), ""), ""
        left = [name for name in path.split("/") if name][::-1]
        links = 0
        try:
            while left:
                name = left.pop()
                handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here.handle)
                info = os.fstat(handle)
                foreign = here.foreign
                if not foreign and _may_replace(os.fstat(here.handle), info):
                    foreign = shown or "/"
                if stat.S_ISDIR(info.st_mode):
                    os.close(here.handle)
                    here, shown = Folder(handle, foreign), f"{shown}/{name}"
                    continue
                os.close(handle)
                if not stat.S_ISLNK(info.st_mode):
                    raise NoDirectory(f"its parent {shown}/{name} is no directory")
                if foreign:
                    raise Refused(_not_followed(f"{shown}/{name}", foreign))
                links += 1
                if links > 40:
                    raise Refused(f"{path} leads through too many links")
                target = os.readlink(name, dir_fd=here.handle)
                if target.startswith("/"):
                    os.close(here.handle)
                    here, shown = Folder(os.open("/", os.O_PATH | os.O_CLOEXEC), ""), ""
                left += [part for part in target.split("/") if part][::-1]
        except FileNotFoundError:
            os.close(here.handle)
            return None
        except BaseException:
            os.close(here.handle)
            raise
        return here

    def at(self, path: str) -> str | None:
        """Return where a name lies, by way of its open directory; None when that does not exist."""
        place, name = os.path.split(path)
        folder = self.find(place)
        return None if folder is None else f"{folder.path}/{name}"

    def foreign(self, path: str) -> str:
        """Return the directory on the way to a name, its own included, in which another account may write."""
        folder = self.known.get(os.path.dirname(path))
        if folder is None:
            return ""
        with contextlib.suppress(OSError):
            entry = os.lstat(f"{folder.path}/{os.path.basename(path)}")
            if _may_replace(os.fstat(folder.handle), entry):
                return folder.foreign or os.path.dirname(path)
        return folder.foreign

    def shown(self, text: str) -> str:
        """Put the names that people know into a message."""
        for path, folder in self.known.items():
            text = path.join(re.split(rf"{folder.path}(?!\d)", text))
        return text


def _not_followed(path: str, foreign: str) -> str:
    return (
        f"{path} is a link, which an account that may write in {foreign} can have put there; it is not followed:"
        " remove it, or give the path that it leads to"
    )


def _set(path: str, info: os.stat_result, uid: int, gid: int, mode: int | None) -> None:
    """Change owner and mode of what was looked at, and of nothing that has taken its place."""
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(handle), info):
            raise Refused(f"{path} was replaced by something else just now")
        if stat.S_ISLNK(info.st_mode):
            os.chown(path, uid, gid, follow_symlinks=False)
            return
        same = f"/proc/self/fd/{handle}"
        if (uid, gid) != (-1, -1):
            os.chown(same, uid, gid)
        if mode is not None:
            # Also after a mere chown, which clears the set-id bits.
            os.chmod(same, mode)
    finally:
        os.close(handle)


class Now:
    """What lies at a path at this moment, enough to put it back."""

    def __init__(self, path: str | None, dest: str) -> None:
        self.path = path or dest
        self.kind = "absent"
        self.content = b""
        self.target = ""
        if path is None:
            return
        try:
            self.info = os.lstat(path)
        except FileNotFoundError:
            return
        if stat.S_ISLNK(self.info.st_mode):
            self.kind, self.target = "link", os.readlink(path)
        elif stat.S_ISDIR(self.info.st_mode):
            self.kind = "directory"
        elif stat.S_ISREG(self.info.st_mode):
            self.kind = "file"
        else:
            self.kind = "special"

    def read(self) -> None:
        """Keep the content and the extended attributes of a file."""
        # A pipe that took the file's place would keep us waiting, and a link would lead elsewhere.
        handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            info = os.fstat(handle)
            # A new file may get the number of the one that went.
            if not os.path.samestat(info, self.info) or not stat.S_ISREG(info.st_mode):
                raise Refused(f"{self.path} was replaced by something else just now")
            self.content = file.read()
            self.attributes = {name: os.getxattr(handle, name) for name in _list_attributes(handle)}

    @property
    def mode(self) -> int:
        return stat.S_IMODE(self.info.st_mode)


def _list_attributes(handle: int) -> list[str]:
    try:
        return os.listxattr(handle)
    except OSError:
        return []


class Change:
    """One entry compared with the host: what is, what should be, what differs."""

    def __init__(
        self, item: dict[str, Any], check: bool, folders: Folders, leaving: frozenset[str] = frozenset()
    ) -> None:
        self.item = item
        self.leaving = leaving
        self.dest: str = item["dest"]
        self.state: str = item["state"]
        self.secret: bool = item.get("secret", False)
        try:
            place = folders.at(self.dest)
        except NoDirectory:
            if self.state != "absent":
                raise
            place = None
        self.now = Now(place, self.dest)
        self.foreign = folders.foreign(self.dest)
        self.content = item.get("content", "").encode("utf-8", "surrogateescape")
        self.parts: set[str] = set()
        # A link to a directory serves as the directory; its owner and mode are the directory's.
        if self.state == "directory" and self.now.kind == "link":
            if self.foreign:
                raise Refused(_not_followed(self.dest, self.foreign))
            if os.path.isdir(self.dest):
                real = os.path.realpath(self.dest)
                self.now = Now(folders.at(real), real)
        self.uid = self.gid = -1
        if self.state != "absent":
            self.uid = _account(item["owner"], "owner", check)
            self.gid = _account(item["group"], "group", check)
        self._compare()

    def _compare(self) -> None:
        now = self.now
        if now.kind == "special":
            raise Refused(f"{self.dest} is neither a file, a directory nor a link; it is left alone")
        if self.state == "absent":
            if now.kind == "directory" and not self.item["recursive"]:
                # A mount point or a directory of another's making must not vanish by a slip.
                left = sorted(set(os.listdir(now.path)) - {os.path.basename(path) for path in self.leaving_here()})
                if left:
                    shown = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
                    raise Refused(
                        f"{self.dest} is a directory that is not empty ({shown}); nothing is lost:"
                        " say recursive: true to remove it with all it holds"
                    )
            if now.kind != "absent":
                self.parts.add("state")
            if now.kind == "file":
                now.read()
            return
        allowed = {"file": ("file", "link", "absent"), "link": ("file", "link", "absent")}
        if now.kind not in allowed.get(self.state, ("directory", "absent")):
            raise Refused(f"{self.dest} is a {now.kind}, and a {self.state} was asked for; remove it first")
        if now.kind == "file":
            now.read()
        if now.kind != self.state:
            self.parts.add("state")
            return
        if self.state == "file" and self.item.get("force", True) and now.content != self.content:
            self.parts.add("content")
        if self.state == "link" and now.target != self.item["target"]:
            self.parts.add("content")
        if self.state != "link" and now.mode != self.item["mode"]:
            self.parts.add("mode")
        if now.info.st_uid != self.uid:
            self.parts.add("owner")
        if now.info.st_gid != self.gid:
            self.parts.add("group")
        only_attributes = bool(self.parts) and "content" not in self.parts
        if only_attributes and self.foreign and now.kind == "file" and now.info.st_nlink > 1:
            raise Refused(
                f"{self.dest} has a second name, which an account that may write in {self.foreign} can have given it;"
                " owner and mode are left as they are: remove it"
            )

    def leaving_here(self) -> list[str]:
        """Return what the same call removes from this directory."""
        return [path for path in self.leaving if os.path.dirname(path) == self.dest]

    def diff(self) -> list[dict[str, str]]:
        """Return the diff as ansible shows it: content, then attributes."""
        found: list[dict[str, str]] = []
        header = {"before_header": self.dest, "after_header": self.dest}
        before, after = _shown(self.now), "absent\n"
        if self.state == "file":
            after = _text(self.content)
        elif self.state == "link":
            after = f"link to {self.item['target']}\n"
        elif self.state == "directory":
            after = "directory\n"
        if self.parts & {"state", "content"}:
            if self.secret:
                before = HIDDEN if self.now.kind == "file" else before
                after = HIDDEN if self.state == "file" else after
                if before == after:
                    after = HIDDEN.replace("]", ", changed]")
            elif self.now.kind == "absent" and self.state == "file":
                before = ""
            found.append({**header, "before": before, "after": after})
        if self.state != "absent" and (self.parts & {"mode", "owner", "group"} or "state" in self.parts):
            is_new = self.now.kind == "absent" or (self.now.kind == "link" and self.state != "link")
            old = "" if is_new else _attributes(self.now.mode, self.now.info.st_uid, self.now.info.st_gid)
            new = _attributes(self.item.get("mode", 0o777), self.uid, self.gid, self.item)
            if old != new:
                name = f"{self.dest} (attributes)"
                found.append({"before_header": name, "after_header": name, "before": old, "after": new})
        return found


def _shown(now: Now) -> str:
    if now.kind == "file":
        return _text(now.content)
    return f"link to {now.target}\n" if now.kind == "link" else f"{now.kind}\n"


def _text(content: bytes) -> str:
    if len(content) > DIFF_LIMIT:
        return f"[{len(content)} bytes, too long to show]\n"
    if b"\0" in content:
        return f"[{len(content)} bytes, binary, crc32 {zlib.crc32(content):08x}]\n"
    return content.decode("utf-8", "replace")


def _attributes(mode: int, uid: int, gid: int, item: dict[str, Any] | None = None) -> str:
    wanted = item or {}
    owner, group = _id_name(uid, "owner"), _id_name(gid, "group")
    if uid == -1:
        owner = wanted.get("owner", owner)
    if gid == -1:
        group = wanted.get("group", group)
    return f"mode: {mode:04o}\nowner: {owner}\ngroup: {group}\n"


def _id_name(number: int, kind: str) -> str:
    try:
        return pwd.getpwuid(number).pw_name if kind == "owner" else grp.getgrgid(number).gr_name
    except (KeyError, OverflowError):
        return str(number)


def _account(name: str, kind: str, check: bool) -> int:
    """Return the number of an account; -1, which equals no file's, when check mode finds none yet."""
    try:
        return pwd.getpwnam(name).pw_uid if kind == "owner" else grp.getgrnam(name).gr_gid
    except KeyError:
        if name.isdigit():
            return int(name)
        if check:
            return -1
        raise Refused(f"{kind} {name} does not exist on this host") from None


def _check_parent(path: str, coming: set[str]) -> list[str]:
    """Return the missing parent directories, outermost first."""
    missing: list[str] = []
    parent = os.path.dirname(path)
    while parent not in coming and not os.path.isdir(parent):
        if os.path.lexists(parent):
            raise Refused(f"its parent {parent} is no directory")
        missing.insert(0, parent)
        parent = os.path.dirname(parent)
    return missing


class Writer:
    """Makes changes and knows how to take each of them back."""

    def __init__(self) -> None:
        self.undo: list[tuple[str, Any]] = []
        self.staged: list[str] = []
        self.aside: list[str] = []
        self.touched: set[str] = set()

    def directory(self, path: str, dest: str, mode: int, uid: int, gid: int) -> None:
        with contextlib.suppress(FileExistsError):  # an earlier entry may have needed it as its parent
            os.mkdir(path, 0o700)
            self.undo.append((dest, lambda: os.rmdir(path)))
        info = os.lstat(path)
        if not stat.S_ISDIR(info.st_mode):
            raise Refused(f"{path} was replaced by something else just now")
        _set(path, info, uid, gid, mode)

    def attributes(self, change: Change) -> None:
        now, path = change.now, change.now.path
        owners = (change.uid, change.gid) if change.parts & {"owner", "group"} else (-1, -1)
        self.undo.append((change.dest, lambda: _set(path, now.info, now.info.st_uid, now.info.st_gid, now.mode)))
        _set(path, now.info, *owners, change.item.get("mode"))

    def stage(self, path: str, content: bytes, mode: int, uid: int, gid: int) -> str:
        """Write a complete copy beside path and return its name."""
        # Programs that read a whole directory pass over names that begin with a dot; programs that judge
        # a file by its suffix see the right one.
        place, name = os.path.split(path)
        short = f".webstack-{os.urandom(4).hex()}"
        copy = os.path.join(place, f"{short}-{name}" if len(os.fsencode(name)) < 230 else short)
        handle = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self.staged.append(copy)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(handle, view) :]
            os.fchown(handle, uid, gid)
            os.fchmod(handle, mode)
            os.fsync(handle)
        finally:
            os.close(handle)
        return copy

    def replace(self, copy: str, change: Change) -> None:
        self.undo.append((change.dest, lambda: self._put_back(change.now)))
        os.rename(copy, change.now.path)
        self.staged.remove(copy)
        self.touched.add(os.path.dirname(change.now.path))

    def link(self, change: Change) -> None:
        copy = os.path.join(os.path.dirname(change.now.path), f".webstack-{os.urandom(8).hex()}")
        os.symlink(change.item["target"], copy)
        self.staged.append(copy)
        os.chown(copy, change.uid, change.gid, follow_symlinks=False)
        self.replace(copy, change)

    def remove(self, change: Change) -> None:
        path = change.now.path
        if not os.path.lexists(path):  # gone with a directory that an earlier entry removed
            return
        self.touched.add(os.path.dirname(path))
        if change.now.kind == "directory":
            # Set aside first, deleted when everything else has succeeded.
            aside = os.path.join(os.path.dirname(path), f".webstack-{os.urandom(8).hex()}")
            self.undo.append((change.dest, lambda: os.rename(aside, path) if os.path.lexists(aside) else None))
            os.rename(path, aside)
            self.aside.append(aside)
        else:
            self.undo.append((change.dest, lambda: self._put_back(change.now)))
            os.unlink(path)

    def _put_back(self, now: Now) -> None:
        if now.kind == "absent":
            if os.path.lexists(now.path):
                os.unlink(now.path)
            return
        if now.kind == "link":
            copy = os.path.join(os.path.dirname(now.path), f".webstack-{os.urandom(8).hex()}")
            os.symlink(now.target, copy)
            os.chown(copy, now.info.st_uid, now.info.st_gid, follow_symlinks=False)
        else:
            copy = self.stage(now.path, now.content, now.mode, now.info.st_uid, now.info.st_gid)
            self.staged.remove(copy)
            for name, value in now.attributes.items():
                os.setxattr(copy, name, value)
            os.utime(copy, ns=(now.info.st_atime_ns, now.info.st_mtime_ns))
        os.rename(copy, now.path)

    def roll_back(self, names: list[str]) -> tuple[list[str], list[str]]:
        """Take everything back, newest first. Return what was put back and what could not be."""
        failed: list[str] = []
        done: set[str] = set()
        self.drop_staged()
        for path, back in reversed(self.undo):
            try:
                back()
                done.add(path)
            except (OSError, Refused) as exc:
                failed.append(f"{path}: {getattr(exc, 'strerror', None) or exc}")
        self.undo.clear()
        return [name for name in names if name in done], failed

    def drop_staged(self) -> None:
        for copy in self.staged:
            with contextlib.suppress(OSError):
                os.unlink(copy)
        self.staged.clear()

    def finish(self) -> list[str]:
        """Delete what was set aside and make the renames survive a power cut."""
        problems: list[str] = []
        for path in self.aside:
            import shutil

            try:
                shutil.rmtree(path)
            except OSError as exc:
                problems.append(f"{path}: {exc.strerror or exc}")
        for path in self.touched:
            try:
                handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                continue
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        return problems


def run_check(words: list[str], secrets: list[bytes], what: str) -> None:
    """Run a validation command; raise Refused when it does not succeed, or does not end in time."""
    import signal
    import subprocess

    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True)
    except OSError as exc:
        raise Refused(f"{what} cannot run: {words[0]}: {exc.strerror}", cmd=words, rc=127) from exc
    try:
        said = process.communicate(timeout=CHECK_SECONDS)
    except subprocess.TimeoutExpired:
        raise Refused(f"{what} did not end within {CHECK_SECONDS} s", cmd=words, rc=124) from None
    finally:
        # What it started holds its pipes, and may go on.
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        out, err = (redact(text.decode("utf-8", "replace"), secrets) for text in said)
        last = (err.strip() or out.strip()).splitlines()
        raise Refused(
            f"{what} failed with exit code {process.returncode}" + (f": {last[-1].strip()}" if last else ""),
            cmd=words,
            rc=process.returncode,
            stdout=out,
            stderr=err,
        )


def redact(text: str, secrets: list[bytes]) -> str:
    """Blank what a checker quotes from secret files: whole lines, values, and parts of values."""
    words: set[str] = set()
    for content in secrets:
        for line in content.decode("utf-8", "replace").splitlines():
            words.add(line.strip())
            words.update(word.strip("\"'") for word in re.split(r"[\s=]+", line))
            words.update(re.split(r"[\s=:;,@/&?\"'<>(){}\[\]]+", line))
    for word in sorted((word for word in words if len(word) >= 6), key=len, reverse=True):
        text = text.replace(word, "********")
    return text


def purged(items: list[dict[str, Any]], folders: Folders) -> list[dict[str, Any]]:
    """Return an entry for each file that fits a directory's `purge` and that nobody names."""
    named = {item["dest"] for item in items}
    found: list[dict[str, Any]] = []
    for item in items:
        folder = folders.find(item["dest"]) if "purge" in item else None
        if folder is None:
            continue
        for name in sorted(os.listdir(folder.path)):
            path, here = f"{item['dest']}/{name}", f"{folder.path}/{name}"
            kept = path in named or (os.path.isdir(here) and not os.path.islink(here))
            if not kept and any(fnmatch.fnmatchcase(name, pattern) for pattern in item["purge"]):
                # What it held is not ours to show.
                found.append({"dest": path, "state": "absent", "recursive": False, "secret": True})
    return found


def sweep(library: str) -> None:
    """Remove programs that are not the current one and that no process runs."""
    import fcntl
    import shutil

    try:
        current = os.readlink(f"{library}/current")
        names = os.listdir(library)
    except OSError:
        return
    for name in names:
        if name == current or not DIGEST.fullmatch(name):
            continue
        with contextlib.suppress(OSError):
            handle = os.open(f"{library}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                # Whoever runs it holds it. Somebody else's lock only keeps the directory here.
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another run may have made it the current one meanwhile.
                if os.readlink(f"{library}/current") == name:
                    continue
                # Nobody finds half of it: whoever starts now is told the new one.
                gone = name if name.startswith(".") else f".{name}.gone"
                os.rename(f"{library}/{name}", f"{library}/{gone}")
                shutil.rmtree(f"{library}/{gone}")
            finally:
                os.close(handle)


def _there(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def move(places: list[list[str]], check: bool = False) -> list[str]:
    """Move what an earlier version kept elsewhere; return the new places of what was moved, or would be.

    A place is [old, new, the earlier command]. Earlier programs may still run and go on through a link.
    """
    moved = []
    for old, new, _command in places:
        info = _there(old)
        if info is None or stat.S_ISLNK(info.st_mode):
            continue
        moved.append(new)
        there = _there(new)
        if there is not None and not (stat.S_ISDIR(there.st_mode) and not os.listdir(new)):
            raise Refused(
                f"an earlier version kept in {old} what now belongs in {new}, and both are there: look which of them"
                " counts, and remove the other one",
                file=new,
            )
        if check:
            continue
        try:
            os.makedirs(os.path.dirname(new), mode=0o755, exist_ok=True)
            if there is not None:
                os.rmdir(new)
            os.rename(old, new)
            os.symlink(new, old)
            for folder in sorted({os.path.dirname(old), os.path.dirname(new)}):
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                os.fsync(handle)
                os.close(handle)
        except OSError as exc:
            raise Refused(
                f"what an earlier version kept in {old} belongs in {new} and cannot be moved there: {exc.strerror}."
                " Move it by hand, with the host's services stopped",
                file=new,
            ) from None
    return moved


def _commands() -> str:
    """Return the command lines of all processes."""
    lines = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                lines.append(file.read().decode(errors="replace"))
    return "\n".join(lines)


def forget(places: list[list[str]]) -> None:
    """Remove the links that a move left, once the earlier command is gone and nobody runs it."""
    links = [place for place in places if os.path.islink(place[0]) and os.readlink(place[0]) == place[1]]
    running = _commands() if links else ""
    for old, _new, command in links:
        if not os.path.lexists(command) and command not in running:
            with contextlib.suppress(OSError):
                os.unlink(old)


def compiled(home: str) -> str:
    """Compile a program where it lies, since services that are not root could not keep it; return what is wrong."""
    import subprocess

    words = ["/usr/bin/python3", "-I", "-m", "compileall", "-q", home]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=CHECK_SECONDS
        )
    except OSError as exc:
        return f"{words[0]}: {exc.strerror}"
    except subprocess.TimeoutExpired:
        return f"{words[0]}: no end within {CHECK_SECONDS} s"
    said = (done.stdout + done.stderr).strip().splitlines()
    return "" if done.returncode == 0 else (said[-1] if said else f"exit code {done.returncode}")


def unsettled(wanted: dict[str, Any]) -> list[str]:
    """Return what does not hold of that which holds when nothing is left to do."""
    import subprocess

    units = {unit["name"]: unit for unit in wanted["units"]}
    found: list[str] = []
    if units:
        words = ["systemctl", "show", "--property=ActiveState,UnitFileState", "--", *units]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
            )
        except OSError as exc:
            return [f"systemctl: {exc.strerror}"]
        except subprocess.TimeoutExpired:
            return ["systemctl: no end after a minute"]
        # One block for each unit, in the order of the names.
        blocks = [dict(line.partition("=")[::2] for line in text.splitlines()) for text in done.stdout.split("\n\n")]
        if done.returncode != 0 or len(blocks) != len(units):
            return [f"systemctl: {done.stderr.strip() or 'no answer'}"]
        for (name, unit), state in zip(units.items(), blocks, strict=True):
            active, enabled = state.get("ActiveState", ""), state.get("UnitFileState", "")
            if unit.get("running") is not None and unit["running"] != (active == "active"):
                found.append(f"{name} is {active}")
            # Whatever is neither plainly the one nor the other is looked at by whoever sets it.
            good = "enabled" if unit.get("enabled") else "disabled"
            if unit.get("enabled") is not None and enabled != good:
                found.append(f"{name} is {enabled or 'unknown'}")
    for words in wanted["commands"] if not found else []:
        try:
            asked = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
        except OSError as exc:
            return [f"{words[0]}: {exc.strerror}"]
        except subprocess.TimeoutExpired:
            return [f"{words[0]}: no end after a minute"]
        if asked.returncode != 0:
            # What it says may hold a secret.
            return [f"{words[0]} ends with exit code {asked.returncode}"]
    return found


def run_units(names: list[str], check: bool) -> list[str]:
    """Have these units run, now and at boot; return those that did not."""
    import subprocess

    idle = [
        name
        for name in names
        if unsettled({"units": [{"name": name, "enabled": True, "running": True}], "commands": []})
    ]
    if idle and not check:
        words = ["systemctl", "enable", "--now", "--", *idle]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise Refused(f"{' '.join(words)}: {exc}", cmd=words) from None
        if done.returncode != 0:
            raise Refused(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}", cmd=words)
    return idle


def deliver(request: dict[str, Any], check: bool = False, show_diff: bool = False) -> dict[str, Any]:
    """Bring the files into place; with a program, see first that it is there."""
    if "program" in request and not check:
        current = request["files"][0]
        library, wanted = os.path.dirname(current["dest"]), request["program"]
        try:
            there = os.readlink(current["dest"])
        except OSError:
            there = ""
        # A link may lead to what somebody has removed.
        complete = os.path.isfile(f"{library}/{current['target']}/command")
        if wanted and (there != wanted or not complete):
            return {"changed": False, "program_missing": True}
        if not complete:
            text = f"{library}/{current['target']} was removed by another run just now: run this one again"
            return {"failed": True, "changed": False, "msg": text}
    places = request.get("moved", [])
    try:
        moved = move(places, check)
    except Refused as exc:
        return {"failed": True, "changed": False, "msg": str(exc), **exc.fields}
    result = apply(request, check, show_diff)
    if result.get("failed"):
        # What was moved stays: programs of either version find it.
        return result
    if moved:
        result["changed"] = True
        result["changed_files"] = moved + [path for path in result["changed_files"] if path not in moved]
    try:
        started = run_units(request.get("running", []), check)
    except Refused as exc:
        return {**result, "failed": True, "msg": str(exc), **exc.fields}
    if started:
        result["changed"] = True
        result["changed_files"] += started
    if request.get("compile"):
        problem = compiled(request["compile"])
        if problem:
            return {"failed": True, "msg": f"{request['compile']}: this host's Python does not take it: {problem}"}
    elif "program" in request and not check:
        sweep(os.path.dirname(request["files"][0]["dest"]))
        forget(places)
    if "settled" in request:
        left = ["files changed"] if result["changed"] else unsettled(request["settled"])
        result.update(settled=not left, unsettled=left)
    return result


def apply(request: dict[str, Any], check: bool = False, show_diff: bool = False) -> dict[str, Any]:
    """Bring the files of a request into place; return the module's result."""
    changes: list[Change] = []
    coming: set[str] = set()
    parents: dict[str, list[str]] = {}
    current = ""
    writer = Writer()
    folders = Folders()
    names: list[str] = []
    try:
        items = [*request["files"], *purged(request["files"], folders)]
        names += [item["dest"] for item in items]
        leaving = frozenset(item["dest"] for item in items if item["state"] == "absent")
        # Look at everything before touching anything.
        for item in items:
            current = item["dest"]
            change = Change(item, check, folders, leaving)
            changes.append(change)
            if change.state == "absent":
                continue
            if change.now.kind == "absent":
                parents[current] = _check_parent(current, coming)
                coming.update(parents[current])
            if change.state in ("directory", "link"):
                coming.add(current)
        changed = [change for change in changes if change.parts]
        result: dict[str, Any] = {
            "changed": bool(changed),
            "changed_files": [change.dest for change in changed],
        }
        if show_diff and changed:
            result["diff"] = [part for change in changed for part in change.diff()]
        if check:
            folders.close()
            return result

        secrets = [text for change in changes if change.secret for text in (change.content, change.now.content)]
        staged: list[tuple[Change, str]] = []
        for change in changed:
            current = change.dest
            for parent in parents.get(current, []):
                writer.directory(folders.at(parent) or parent, parent, 0o755, -1, -1)
            if change.now.kind == "absent":
                # Its directory may have come just now.
                change.now.path = folders.at(current) or current
            fresh = bool(change.parts & {"state", "content"})
            if change.state == "file" and fresh:
                copy = writer.stage(change.now.path, change.content, change.item["mode"], change.uid, change.gid)
                staged.append((change, copy))
                if "validate" in change.item:
                    # The command is another process: it has the name, not our handle of the directory.
                    name = os.path.join(os.path.dirname(current), os.path.basename(copy))
                    words = [word.replace("%s", name) for word in change.item["validate"]]
                    run_check(words, secrets, "the check of the new file")
            elif change.state == "directory" and fresh:
                writer.directory(change.now.path, current, change.item["mode"], change.uid, change.gid)
            elif change.state == "link" and fresh:
                writer.link(change)
        # Every single file is good: only now do the old ones give way.
        for change, copy in staged:
            current = change.dest
            writer.replace(copy, change)
        for change in changed:
            current = change.dest
            if change.state == "absent":
                writer.remove(change)
            elif not change.parts & {"state", "content"}:
                writer.attributes(change)
        current = ""
        if request.get("validate") and (changed or request.get("validate_always")):
            run_check(request["validate"], secrets, "validation of the files in place")
    except (Refused, OSError, KeyboardInterrupt) as exc:
        restored, failed = writer.roll_back(names)
        failed = [folders.shown(text) for text in failed]
        if isinstance(exc, Refused):
            message, fields = folders.shown(str(exc)), exc.fields
        elif isinstance(exc, KeyboardInterrupt):
            message, fields = "interrupted", {}
        else:
            name = folders.shown(str(exc.filename or ""))
            about = f" ({name})" if name and name != current else ""
            message, fields = f"{exc.strerror or exc}{about}", {}
        result = {"failed": True, "changed": bool(failed), **fields, "restored": restored}
        if current:
            result["file"] = current
            message = f"{current}: {message}"
        if failed:
            result["not_restored"] = failed
            message += f". Not put back: {'; '.join(failed)}"
        elif restored:
            message += f". All put back as it was: {', '.join(restored)}"
        else:
            message += ". Nothing was changed"
        result["msg"] = message
        folders.close()
        return result
    problems = [folders.shown(one) for one in writer.finish()]
    if problems:
        result["warnings"] = [f"webstack.ha.files: set aside but not removed: {one}" for one in problems]
    folders.close()
    return result


SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def _interrupted(signum: int, frame: Any) -> NoReturn:
    # The second one must not interrupt the way back.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def declare() -> None:
    """Say in the usual form what the documentation says, for tools that compare the two."""
    import importlib

    word, switch = {"type": "str"}, {"type": "bool", "default": False}
    entry = {
        "dest": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["file", "directory", "link", "absent"], "default": "file"},
        "src": word,
        "content": word,
        "force": {"type": "bool", "default": True},
        "vars": {"type": "dict"},
        "mode": word,
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "validate": {"type": "raw"},
        "purge": {"type": "raw"},
        "secret": {**switch, "no_log": False},
        "recursive": switch,
    }
    importlib.import_module("ansible.module_utils.basic").AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": entry},
            "validate": {"type": "raw"},
            "validate_always": switch,
            "host_program": switch,
            "notices": {
                "type": "dict",
                "options": {
                    "tiers": {"type": "list", "elements": "str", "required": True},
                    "metrics_directory": {"type": "str", "required": True},
                    "alarm_command": {"type": "list", "elements": "str", "required": True},
                },
            },
            "settled": {
                "type": "dict",
                "options": {
                    "units": {
                        "type": "list",
                        "elements": "dict",
                        "options": {
                            "name": {"type": "str", "required": True},
                            "enabled": {"type": "bool"},
                            "running": {"type": "bool"},
                        },
                    },
                    "commands": {"type": "list", "elements": "raw"},
                },
            },
        },
        supports_check_mode=True,
    )


def main() -> None:
    """Read the arguments that the controller put in here, act, print the result."""
    # JSON never holds three double quotes in a row, so the text ends where it should.
    sent = r"""<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"""
    if sent.startswith("<"):
        declare()
        return
    arguments = json.loads(sent)
    # A lost connection or a terminated run puts everything back as a failed check does.
    for number in SIGNALS:
        signal.signal(number, _interrupted)
    os.umask(0o022)
    request = json.loads(zlib.decompress(binascii.a2b_base64(arguments["payload"])))
    result = deliver(request, arguments["_ansible_check_mode"], arguments["_ansible_diff"])
    sys.stdout.write(json.dumps(result))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
