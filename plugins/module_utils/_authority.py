# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether the authority on the controller is the one that the hosts carry. No Ansible import, no I/O."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.webstack.ha.plugins.module_utils._site_checks import Problem, boolean

#: What every role takes for its directory when its own variable is not set.
DEFAULT = "{{ webstack_pki_directory | default(inventory_dir ~ '/.pki') }}"
SITE_VARIABLE = "webstack_pki_directory"
REPLACES = "webstack_pki_replaces"
#: The word for hosts that could not be asked, in place of a fingerprint.
UNKNOWN = "unknown"

#: On a balancer a certificate that names the authority stands for it.
ISSUED = "/etc/nginx/webstack/site.crt"
#: Roles that have a directory for the authority, and where each keeps a certificate of it on its hosts.
FILES: Mapping[str, tuple[str, ...]] = {
    "lb_nginx": ("/etc/webstack/tls/channel/ca.crt", ISSUED),
    "mysql_replication": ("/etc/mysql/webstack/ca.pem",),
    "quorum": ("/etc/webstack/quorum/ca.pem",),
    "redis_cluster_client": ("/etc/webstack/cache-ca.pem",),
    "redis_shard": ("/etc/redis/tls/ca.pem", "/etc/valkey/tls/ca.pem"),
    "was_django": ("/etc/webstack/ca.pem",),
}
#: Roles that meet each other with these certificates: with two authorities neither would accept the other.
TOGETHER = (
    ("lb_nginx",),
    ("mysql_replication", "was_django"),
    ("quorum",),
    ("redis_shard", "redis_cluster_client"),
)


#: What decides whether a role needs the authority, each value with those that mean that it does not.
NEEDS: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "lb_nginx": {"lb_nginx_tls_mode": ("files",)},
    "mysql_replication": {},
    "quorum": {},
    "redis_cluster_client": {"redis_cluster_client_tls_enabled": (False,)},
    "redis_shard": {"redis_shard_tls_enabled": (False,)},
    "was_django": {"was_django_database_engine": ("sqlite",), "was_django_database_tls_enabled": (False,)},
}


def needed(role: str, values: Mapping[str, object]) -> bool:
    """Say whether a role with these inputs has a certificate of the internal authority, or checks one."""
    return not any(
        values.get(name) in none or (False in none and boolean(values.get(name)) is False)
        for name, none in NEEDS[role].items()
    )


def variable(role: str) -> str:
    """Return the name of a role's own variable for the directory."""
    return f"{role}_pki_directory"


@dataclass(frozen=True)
class Directory:
    """Where the authority is, for one role on one host, and whether a default says so."""

    path: str
    is_default: bool = False


@dataclass(frozen=True)
class Carried:
    """One certificate of an authority on a host."""

    host: str
    role: str
    path: str
    authority: str


@dataclass(frozen=True)
class Store:
    """What the controller has in one directory: an authority, nothing (neither), or a problem."""

    authority: str | None = None
    problem: str = ""


def directory_error(path: object) -> str | None:
    """Say why a text cannot name the directory of an authority, before it is looked at."""
    if not isinstance(path, str) or not path.strip():
        return f"must name a directory on the controller, got {path!r}"
    if path.startswith("None/"):
        # What inventory_dir is without an inventory file.
        return f"{path}: there is no inventory file, so no directory of one; set {SITE_VARIABLE} to an absolute path"
    clean = os.path.expanduser(path)
    if not clean.startswith("/"):
        return f"{path} must be an absolute path: a relative one is another directory for each playbook"
    if os.path.dirname(os.path.normpath("/" + clean.lstrip("/"))) == "/":
        return f"{path} lies directly below /: is a variable in it empty?"
    return None


def check_directories(used: Mapping[str, Mapping[str, Directory]]) -> list[Problem]:
    """Check that hosts agree on the directory. C(used) holds it for each host and role that needs one."""
    problems = []
    first: tuple[str, str] | None = None
    for host, roles in used.items():
        for directory in roles.values():
            if not directory.is_default:
                continue
            first = first or (host, directory.path)
            if directory.path != first[1]:
                message = (
                    f"differs from {first[0]}'s ({directory.path} here, {first[1]} there): the hosts come from several "
                    "inventories. Set it to one path, where the authority of this site is"
                )
                problems.append(Problem(host, SITE_VARIABLE, message))
                break
    if problems:
        return problems
    for family in TOGETHER:
        found = [(host, role, roles[role]) for host, roles in used.items() for role in family if role in roles]
        for host, role, directory in found:
            if directory.path != found[0][2].path:
                message = (
                    f"differs from {found[0][0]}'s {variable(found[0][1])}: both must be the same "
                    f"({directory.path} here, {found[0][2].path} there)"
                )
                problems.append(Problem(host, variable(role), message))
    return problems


def replaced(raw: object) -> frozenset[str]:
    """Return the authorities that may be replaced, as the variable names them: fingerprints with commas between."""
    items = raw if isinstance(raw, (list, tuple)) else str("" if raw is None else raw).split(",")
    return frozenset(text for text in (str(item).strip().lower().replace(":", "") for item in items) if text)


def check(
    path: str,
    store: Store,
    carried: Iterable[Carried],
    unasked: Mapping[str, str],
    may_replace: Collection[str] = (),
    *,
    name: str = SITE_VARIABLE,
) -> list[Problem]:
    """Compare the authority of a directory with those that hosts carry.

    C(unasked) names the hosts that could not be asked, and why. They matter only where a new authority would be made.
    C(name) is the variable that names the directory.
    """
    found = list(carried)
    if store.problem:
        return [Problem("", name, f"{store.problem}. {_mend(store.problem, path, found)}")]
    problems = []
    for one in found:
        if one.authority == store.authority or one.authority in may_replace:
            continue
        begin = f"carries the authority {one.authority} ({one.path}), and"
        again = f"-e {REPLACES}={one.authority}"
        if store.authority is None:
            text = (
                f"{begin} {path} on the controller has none: restore that directory from a backup, "
                f"or begin with a new authority, on purpose, by {again}"
            )
        else:
            text = (
                f"{begin} {path} on the controller has {store.authority}: use the directory that belongs to this site, "
                f"or give the host the other authority, on purpose, by {again}"
            )
        problems.append(Problem(one.host, name, text))
    # Whoever names an authority that others carry has decided that a new one begins.
    decided = UNKNOWN in may_replace or any(one.authority in may_replace for one in found)
    if store.authority is None and not problems and not decided:
        for host, reason in unasked.items():
            text = (
                f"could not be asked which authority it carries ({reason}), and {path} on the controller has none. "
                "One is made only when no host has another: let the host answer, take it out of the inventory, "
                f"or begin with a new authority, on purpose, by -e {REPLACES}={UNKNOWN}"
            )
            problems.append(Problem(host, name, text))
    return problems


def _mend(problem: str, path: str, carried: Sequence[Carried]) -> str:
    if not carried:
        return f"No host that was asked carries an authority: remove what is left in {path} and a new one is made"
    # What is issued, not the authority itself, is no copy of it.
    copies = ", ".join(sorted({f"{one.host}:{one.path}" for one in carried if one.path != ISSUED}))
    if "ca.crt is missing" in problem:
        return f"The key is all that matters: restore ca.crt from a backup, or from a host ({copies})"
    return f"Restore the directory from a backup: hosts carry an authority ({copies})"
