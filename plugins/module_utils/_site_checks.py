# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What must hold before the first change: no Ansible import, no I/O.

Every check returns problems instead of raising, so that one run shows all of them.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

try:
    import netaddr
except ImportError:  # the caller reports it in words: missing_library()
    netaddr = None  # type: ignore[assignment]

#: As many host names are written out in one line of the report.
HOSTS_IN_A_LINE = 8

_SECRET = re.compile(r"(^|_)(password|passphrase|secret|secret_key|private_key|token)(_|$)")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_PREFIXED = re.compile(r"(?P<address>[^/]+)/(?P<prefix>[0-9]{1,3})")
_VALIDATOR_TYPE = re.compile(
    r"(?:argument '(?P<name>[^']+)'|Elements value for option '(?P<element>[^']+)')"
    r"(?: found in '(?P<early>[^']+)')? is of type (?P<is>\w+)(?: found in '(?P<path>[^']+)'\.)?"
    r" and we were unable to convert to (?P<wanted>\w+): (?P<detail>.*)",
    re.DOTALL,
)
_VALIDATOR_DETAIL = re.compile(r"[\"'](?P<value>.*)[\"'] cannot be converted to an? ", re.DOTALL)


@dataclass(frozen=True, order=True)
class Problem:
    """One refused input. Without a host it concerns the inventory as a whole."""

    host: str
    variable: str
    message: str
    #: The whole sentence, for a role that says it; empty for the variable and the message.
    text: str = field(default="", compare=False)

    @property
    def sentence(self) -> str:
        """Return what is wrong without the host."""
        return self.text or f"{self.variable}: {self.message}"

    def as_dict(self) -> dict[str, str]:
        """Return the fields as a mapping."""
        return {"host": self.host, "variable": self.variable, "message": self.message}


@dataclass(frozen=True)
class Group:
    """How many hosts a group of the inventory needs, and which roles run on them."""

    roles: tuple[str, ...] = ()
    minimum: int = 1
    maximum: int | None = None
    optional: bool = False


@dataclass(frozen=True)
class Site:
    """The collection-wide knowledge: settings, groups, rules between hosts."""

    options: Mapping[str, Mapping[str, Any]]
    groups: Mapping[str, Group]
    unique: Mapping[str, str] = field(default_factory=dict)
    equal: Mapping[str, str] = field(default_factory=dict)
    listening: tuple[Mapping[str, str], ...] = ()
    ignored_prefixes: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


def parse_site(data: Mapping[str, Any]) -> Site:
    """Return the Site that meta/site_specs.yml describes."""
    return Site(
        options=data["options"],
        groups={
            name: Group(
                roles=tuple(group["roles"]),
                minimum=group.get("minimum", 1),
                maximum=group.get("maximum"),
                optional=group.get("optional", False),
            )
            for name, group in data["groups"].items()
        },
        unique=data.get("unique") or {},
        equal=data.get("equal") or {},
        listening=tuple(data.get("listening") or ()),
        ignored_prefixes=tuple(data.get("ignored_prefixes") or ()),
        secrets=tuple(data.get("secrets") or ()),
    )


def missing_library() -> str | None:
    """Say in words that netaddr is missing, or return None."""
    if netaddr is not None:
        return None
    return (
        "the Python library netaddr is missing on the controller, the addresses of the site cannot be checked: "
        "install it beside ansible-core (pip install netaddr, or apt install python3-netaddr)"
    )


# ---------------------------------------------------------------------------------------------------------
# Report


def report(problems: Iterable[Problem], head: str = "") -> str:
    """Return the message for a person: one line for each problem, equal ones of several hosts joined."""
    joined: dict[tuple[str, str], list[str]] = defaultdict(list)
    for problem in dict.fromkeys(problems):
        joined[problem.variable, problem.message].append(problem.host)
    lines = []
    for (variable, message), hosts in joined.items():
        named = [host for host in hosts if host]
        shown = ", ".join(named[:HOSTS_IN_A_LINE])
        if len(named) > HOSTS_IN_A_LINE:
            shown += f" and {len(named) - HOSTS_IN_A_LINE} more"
        lines.append((not named, f"{shown}: {variable}: {message}" if named else f"{variable}: {message}"))
    lines.sort(key=lambda line: not line[0])
    count = len(lines)
    head = head or f"{count} {'input is' if count == 1 else 'inputs are'} refused"
    return "\n".join([f"Nothing was changed: {head}.", *(f"  {text}" for _first, text in lines)])


def only_first(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems without what merely follows from another one.

    A second problem of one variable on one host adds nothing, and neither does a default that cannot be
    worked out because of a host's variable that stands in the list already.
    """
    kept: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        kept.setdefault((problem.host, problem.variable), problem)
    causes = [(p.host, p.variable) for p in kept.values() if not p.message.startswith(_UNWORKABLE)]

    def follows(problem: Problem) -> bool:
        if not problem.message.startswith(_UNWORKABLE):
            return False
        words = set(re.findall(r"[\w.-]+", problem.message))
        return any(variable in words and (host in words or host == problem.host) for host, variable in causes)

    return [problem for problem in kept.values() if not follows(problem)]


_UNWORKABLE = "cannot be worked out: "


def unworkable(host: str, reason: str, variables: Sequence[str]) -> Problem:
    """Return the problem of values whose expressions fail for the same reason: the first one brings it."""
    message = _UNWORKABLE + " ".join(reason.split()).rstrip(".")
    if len(variables) > 1:
        message += f" (and so {', '.join(variables[1:])})"
    return Problem(host, variables[0], message)


def is_secret(name: str, spec: Mapping[str, Any] | None = None) -> bool:
    """Tell whether the value of this variable must never be shown."""
    return bool((spec or {}).get("no_log")) or _SECRET.search(name) is not None


def not_set(host: str, variable: str, secrets: Collection[str], needed_by: Sequence[str] = ()) -> Problem:
    """Return the problem of a variable that is absent."""
    message = "is not set"
    if needed_by:
        message += f" (needed by {', '.join(needed_by)})"
    if variable in secrets:
        message += "; the playbook webstack.ha.secrets writes the missing secrets"
    return Problem(host, variable, message)


# ---------------------------------------------------------------------------------------------------------
# Names


@functools.lru_cache(maxsize=4096)
def _nearest(name: str, known: tuple[str, ...], cutoff: float) -> str | None:
    found = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return found[0] if found else None


@dataclass(frozen=True)
class Names:
    """The variables that exist, and the beginnings that are reserved for them."""

    known: tuple[str, ...]
    prefixes: tuple[str, ...]
    ignored_prefixes: tuple[str, ...] = ()

    @classmethod
    def build(cls, known: Iterable[str], prefixes: Iterable[str], ignored_prefixes: Iterable[str] = ()) -> Names:
        """Return the names in a stable order."""
        return cls(tuple(sorted(set(known))), tuple(sorted(set(prefixes))), tuple(ignored_prefixes))

    def _ours(self, name: str) -> bool:
        return name.startswith(self.prefixes) and not name.startswith(self.ignored_prefixes or ("\0",))

    def unknown(self, host: str, names: Iterable[str]) -> list[Problem]:
        """Return a problem for each variable that begins like ours and is none."""
        known = set(self.known)
        problems = []
        for name in names:
            if not self._ours(name) or name in known:
                continue
            prefix = max((p for p in self.prefixes if name.startswith(p)), key=len)
            family = tuple(k for k in self.known if k.startswith(prefix))
            guess = _nearest(name, family, 0.6) or _nearest(name, self.known, 0.7)
            problems.append(
                Problem(host, name, "is no variable of this collection" + (f"; did you mean {guess}?" if guess else ""))
            )
        return problems

    def suspicious(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Return names outside our prefixes that look like a slip of the pen, with the likely meaning.

        Such a name may well be the site's own, so this is for a warning only.
        """
        found = []
        for name in names:
            if name.startswith(("ansible_", "__", *self.prefixes)) or "_" not in name:
                continue
            guess = _nearest(name, self.known, 0.92)
            if guess:
                found.append((name, guess))
        return found


# ---------------------------------------------------------------------------------------------------------
# Types

#: What Ansible's filter `bool` reads, by which the roles read their inputs: an INI file and -e name=value give texts.
_BOOLEANS = {"yes": True, "on": True, "1": True, "true": True, "no": False, "off": False, "0": False, "false": False}


def boolean(value: Any) -> bool | None:
    """Return what a boolean input means, or None when it means neither."""
    if isinstance(value, (bool, int, str)):
        return _BOOLEANS.get(str(value).lower())
    return None


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "list": ("a list", lambda value: isinstance(value, (list, tuple))),
    "dict": ("a mapping", lambda value: isinstance(value, Mapping)),
    "bool": ("true or false", lambda value: boolean(value) is not None),
    "int": ("a whole number", lambda value: not isinstance(value, (bool, float))),
    "float": ("a number", lambda value: not isinstance(value, bool)),
    "str": ("a text", lambda value: not isinstance(value, (list, tuple, Mapping, bool))),
    "path": ("a path", lambda value: isinstance(value, str)),
}


def shown(value: Any) -> str:
    """Return a value as a person would write it, cut to a readable length."""
    if isinstance(value, str):
        text = f"the text {str(value)!r}"
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, Mapping):
        text = "a mapping"
    elif isinstance(value, (list, tuple)):
        text = "a list"
    elif value is None:
        text = "empty"
    else:
        text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def wrong_kind(value: Any, spec: Mapping[str, Any], secret: bool = False) -> str | None:
    """Say what is wrong with the kind of a value, or return None.

    Stricter than Ansible's own validation where that one converts: roles use the value that was written,
    not the converted one, so a text given for a list would be looped over letter by letter.
    """
    wanted = spec.get("type", "str")
    if wanted not in _KINDS:
        return None
    words, fits = _KINDS[wanted]
    if fits(value):
        return _boolean_for_text(value, spec)
    hint = _QUOTE if wanted == "str" and isinstance(value, bool) else ""
    return f"must be {words}" + ("" if secret else f", not {shown(value)}") + hint


def converted(value: Any, spec: Mapping[str, Any]) -> Any:
    """Return a value that was found good as its specification calls it: an INI file and the command line give texts."""
    kind = spec.get("type", "str")
    if kind == "list" and isinstance(value, (list, tuple)):
        inner = {key: spec[key] for key in ("options",) if key in spec}
        return [converted(element, {"type": spec.get("elements", "raw"), **inner}) for element in value]
    if kind == "dict" and isinstance(value, Mapping):
        options = spec.get("options") or {}
        return {key: converted(one, options[key]) if key in options else one for key, one in value.items()}
    if value is None:
        return None
    if kind == "bool":
        return boolean(value)
    return {"int": int, "float": float, "str": str}.get(kind, lambda one: one)(value)


def _comparable(value: Any, spec: Mapping[str, Any]) -> Any:
    """Return a value so that two that mean the same are the same."""
    return boolean(value) if spec.get("type") == "bool" else value


#: YAML makes booleans of on, yes, off and no, and a template would write them as True and False.
_QUOTE = " (YAML makes that of on, yes, off and no as well: write the very word in quotes)"


def _boolean_for_text(value: Any, spec: Mapping[str, Any], place: str = "") -> str | None:
    """Say where inside a list or a mapping a boolean stands for a text, or return None."""
    if isinstance(value, (list, tuple)):
        # The words of a command, in a list of commands.
        inner = {"elements": "str"} if spec.get("elements") == "list" else {}
        elements = {**spec, "type": spec.get("elements", "raw"), **inner}
        found = (_boolean_for_text(element, elements, f"{place}[{at}]") for at, element in enumerate(value))
    elif isinstance(value, Mapping):
        options = spec.get("options") or {}
        found = (_boolean_for_text(value[key], options[key], f"{place}.{key}") for key in options if key in value)
    elif isinstance(value, bool) and place and spec.get("type", "str") == "str":
        return f"{place.removeprefix('.')} must be a text, not {str(value).lower()}{_QUOTE}"
    else:
        return None
    return next(filter(None, found), None)


def plain_words(message: str, name: str, spec: Mapping[str, Any], secret: bool) -> str:
    """Return a message of Ansible's argument validation without its jargon, and without the value of a secret."""
    if secret:
        words = _KINDS.get(spec.get("type", "str"), ("of another type", None))[0]
        return f"must be {words}" + (" and one of the choices of its specification" if spec.get("choices") else "")
    match = _VALIDATOR_TYPE.fullmatch(message.strip())
    if match:
        words = _KINDS.get(match["wanted"], (match["wanted"], None))[0]
        place = match["path"] or match["early"]
        inner = match["name"] or match["element"]
        where = ""
        if place:
            where = f"{place.replace(' -> ', '.')}.{inner} "
        elif match["element"]:
            where = "each element "
        where = where.removeprefix(f"{name}.")
        detail = _VALIDATOR_DETAIL.match(match["detail"])
        said = f", not {detail['value']}" if detail else f": {match['detail']}"
        return f"{where}must be {words}{said}".rstrip()
    message = message.strip().removeprefix(f"value of {name} ")
    message = re.sub(r"missing required arguments: ", "lacks ", message)
    message = re.sub(rf" found in {re.escape(name)}$", "", message)
    return message


# ---------------------------------------------------------------------------------------------------------
# Addresses and names of the site


def _address(text: Any) -> Any | None:
    try:
        return netaddr.IPAddress(str(text), flags=netaddr.INET_PTON)
    except (netaddr.AddrFormatError, ValueError, TypeError):
        return None


def _network(text: Any) -> Any | None:
    match = _PREFIXED.fullmatch(str(text))
    if match is None or _address(match["address"]) is None:
        return None
    try:
        return netaddr.IPNetwork(str(text))
    except (netaddr.AddrFormatError, ValueError, TypeError):
        return None


def network_error(value: Any) -> str | None:
    """Say what is wrong with the network of the site."""
    network = _network(value)
    if network is None:
        return f"must be a network like 192.0.2.0/24, not {shown(value)}"
    if network.ip != network.cidr.ip:
        return f"{value} is an address inside a network: write the network itself, {network.cidr}"
    if network.size < 4:
        return f"{value} has no room for the hosts of a site"
    return None


def _unusable(address: Any, network: Any) -> str | None:
    """Say why a host cannot have this address of the network."""
    if address not in network:
        return f"{address} lies outside webstack_network {network}"
    if address == network.network and network.size > 2:
        return f"{address} is the address of the network {network} itself"
    if network.broadcast is not None and address == network.broadcast:
        return f"{address} is the broadcast address of {network}"
    return None


def host_address_error(value: Any, network: Any | None) -> str | None:
    """Say what is wrong with the address of a host."""
    if _PREFIXED.fullmatch(str(value)):
        return f"must be an address without a prefix, not {shown(value)}"
    address = _address(value)
    if address is None:
        return f"must be an IP address, not {shown(value)}"
    return _unusable(address, network) if network is not None else None


def floating_address_error(value: Any, network: Any | None) -> str | None:
    """Say what is wrong with an address that moves between hosts: C(address/prefix)."""
    match = _PREFIXED.fullmatch(str(value))
    if match is None:
        address = _address(value)
        if address is None:
            return f"must be address/prefix, not {shown(value)}"
        prefix = network.prefixlen if network is not None and network.version == address.version else 32
        return f"{value} has no prefix: write {value}/{prefix}"
    address = _address(match["address"])
    if address is None:
        return f"{match['address']!r} is no IP address"
    if int(match["prefix"]) > (32 if address.version == 4 else 128):
        return f"{value} has an impossible prefix"
    if address.is_multicast() or address.is_loopback() or int(address) == 0:
        return f"{address} cannot be the address of a host"
    if network is None or network.version != address.version:
        # A second family has no network of its own to compare with: webstack_network is one network.
        return None
    return _unusable(address, network)


def _server_name_error(name: Any) -> str | None:
    text = str(name)
    labels = text.removeprefix("*.").split(".")
    if not isinstance(name, str) or len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return f"{text!r} is no host name"
    return None


def _port_error(value: Any) -> str | None:
    try:
        port = int(value)
    except (TypeError, ValueError, OverflowError):
        return None  # the type check has reported it
    return None if 1 <= port <= 65535 else f"{port} is no port: 1 to 65535"


def _identifier_error(value: Any) -> str | None:
    if isinstance(value, str) and not _IDENTIFIER.fullmatch(value):
        return f"{value!r} must begin with a letter and hold only letters, digits and _"
    return None


def directory_error(value: Any) -> str | None:
    """Say what is wrong with a directory of a host. An empty variable leaves nothing, or what is below ``/``."""
    if isinstance(value, str) and (not value.startswith("/") or not value.strip("/")):
        return f"must be the absolute path of a directory, not {shown(value)}"
    return None


def repeated(values: Iterable[Any]) -> list[Any]:
    """Return the values that occur more than once, in order."""
    seen: list[Any] = []
    twice: list[Any] = []
    for value in values:
        if value in seen and value not in twice:
            twice.append(value)
        seen.append(value)
    return twice


def _bare(value: Any) -> Any | None:
    return _address(str(value).split("/", maxsplit=1)[0])


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


# ---------------------------------------------------------------------------------------------------------
# The site as a whole


def check_groups(site: Site, groups: Mapping[str, Sequence[str]], allow_single: bool) -> list[Problem]:
    """Check that each group has the hosts that it needs."""
    problems = []
    for name, group in site.groups.items():
        hosts = list(groups.get(name, ()))
        count = len(hosts)
        least = group.minimum
        if count == 0 and (group.optional or allow_single):
            continue
        wanted = f"exactly {least}" if group.maximum == least else f"at least {least}"
        even = name in ("sentinel", "quorum") and count % 2 == 0
        if count == 0:
            problems.append(
                Problem("", f"group {name}", f"has no hosts, {wanted} are needed (or set webstack_allow_single: true)")
            )
        elif count < least and not allow_single:
            problems.append(
                Problem(
                    "",
                    f"group {name}",
                    f"has only {', '.join(hosts)}, {wanted} are needed"
                    # It would not let these through.
                    + ("" if even else " (or set webstack_allow_single: true)"),
                )
            )
        elif group.maximum is not None and count > group.maximum:
            problems.append(
                Problem("", f"group {name}", f"has {count} hosts ({', '.join(hosts)}), {wanted} are needed")
            )
        elif even:
            words = f"has {count} hosts ({', '.join(hosts)}): an odd number is needed, a tie elects nobody"
            problems.append(Problem("", f"group {name}", words))
    databases = [host for host in groups.get("quorum", ()) if host in groups.get("db", ())]
    if len(databases) > 1 and not allow_single:
        # Two of three members: whatever takes both databases takes the decision which of them writes.
        words = f"has {len(databases)} database hosts ({', '.join(databases)}): at most one may be a member"
        problems.append(Problem("", "group quorum", words))
    return problems


def members(site: Site, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the hosts of the site, each once, in the order of the groups."""
    return list(dict.fromkeys(host for name in site.groups for host in groups.get(name, ())))


def _agreed(name: str, hosts: Sequence[str], values: Mapping[str, Mapping[str, Any]]) -> tuple[Any, str | None]:
    """Return the value of a site-wide setting and the first host that has it."""
    for host in hosts:
        value = values.get(host, {}).get(name)
        if value is not None:
            return value, host
    return None, None


def check_settings(
    site: Site,
    groups: Mapping[str, Sequence[str]],
    values: Mapping[str, Mapping[str, Any]],
    failed: Collection[tuple[str, str]] = (),
) -> list[Problem]:
    """Check that the collection-wide settings are present where they are needed and the same on all hosts.

    C(values) holds the settings of each host of the site; C(failed) what could not be templated and is
    reported already.
    """
    problems = []
    hosts = members(site, groups)
    for name, spec in site.options.items():
        needed_in = spec.get("groups")
        needed = spec.get("required") and (not needed_in or any(groups.get(group) for group in needed_in))
        asked = hosts
        if needed_in:
            asked = [host for host in hosts if any(host in groups.get(group, ()) for group in needed_in)]
        secret = is_secret(name, spec)
        first, owner = _agreed(name, hosts, values)
        for host in hosts:
            if (host, name) in failed:
                continue
            value = values.get(host, {}).get(name)
            if spec.get("may_be_empty") and value == "" == first:
                continue
            if value is None or value in ("", []):
                if needed and host in asked:
                    if name in values.get(host, {}):
                        problems.append(Problem(host, name, "is empty"))
                    else:
                        problems.append(not_set(host, name, site.secrets))
                continue
            kind = wrong_kind(value, spec, secret)
            choices = spec.get("choices")
            if kind:
                problems.append(Problem(host, name, kind))
            elif choices and value not in choices:
                problems.append(Problem(host, name, f"must be one of {', '.join(choices)}, not {shown(value)}"))
            elif spec.get("scope") == "site" and _comparable(value, spec) != _comparable(first, spec):
                detail = "" if secret else f" ({value!s} here, {first!s} there)"
                problems.append(Problem(host, name, f"differs from {owner}'s: it must be the same everywhere{detail}"))
    return problems


def check_addresses(
    site: Site, groups: Mapping[str, Sequence[str]], values: Mapping[str, Mapping[str, Any]]
) -> list[Problem]:
    """Check network, host, virtual and writer addresses, names and ports against each other."""
    hosts = members(site, groups)
    problems: list[Problem] = []

    value, owner = _agreed("webstack_network", hosts, values)
    network = None
    if isinstance(value, str):
        message = network_error(value)
        if message:
            problems.append(Problem(owner or "", "webstack_network", message))
        else:
            network = netaddr.IPNetwork(str(value)).cidr

    taken: dict[Any, str] = {}
    for host in hosts:
        value = values.get(host, {}).get("webstack_address")
        if not isinstance(value, str) or not value:
            continue
        message = host_address_error(value, network)
        address = _address(value)
        if message is None and address in taken:
            message = f"{address} is also the address of {taken[address]}"
        if message:
            problems.append(Problem(host, "webstack_address", message))
        if address is not None:
            taken.setdefault(address, host)

    floating: dict[Any, str] = {}
    value, owner = _agreed("webstack_virtual_addresses", hosts, values)
    wanted = [("webstack_virtual_addresses", owner, text) for text in _as_list(value)]
    value, owner = _agreed("webstack_database_address", hosts, values)
    if isinstance(value, str) and value:
        wanted.append(("webstack_database_address", owner, value))
    for name, owner, text in wanted:
        message = floating_address_error(text, network)
        address = _bare(text)
        if message is None and address in taken:
            message = f"{address} is the address of {taken[address]}, a floating address must belong to no host"
        if message is None and address in floating:
            also = floating[address]
            message = f"{address} is there twice" if also == name else f"{address} is also in {also}"
        if message:
            problems.append(Problem(owner or "", name, message))
        elif address is not None:
            floating[address] = name

    value, owner = _agreed("webstack_server_names", hosts, values)
    names = _as_list(value)
    for text in names:
        message = _server_name_error(text)
        if message:
            problems.append(Problem(owner or "", "webstack_server_names", message))
    for text in repeated(str(text).lower() for text in names):
        problems.append(Problem(owner or "", "webstack_server_names", f"{text} is there twice"))

    for name, spec in site.options.items():
        check = {"port": _port_error, "identifier": _identifier_error, "directory": directory_error}.get(
            spec.get("check", "")
        )
        value, owner = _agreed(name, hosts, values)
        if check and value is not None:
            message = check(value)
            if message:
                problems.append(Problem(owner or "", name, message))
    return problems


# ---------------------------------------------------------------------------------------------------------
# Role inputs of several hosts against each other


def check_unique(name: str, hosts: Sequence[str], values: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """Check that no two hosts have the same value."""
    owners: dict[str, str] = {}
    problems = []
    for host in hosts:
        value = values.get(host, {}).get(name)
        if value is None:
            continue
        if str(value) in owners:
            problems.append(Problem(host, name, f"{value} is also used by {owners[str(value)]}"))
        else:
            owners[str(value)] = host
    return problems


def check_equal(
    name: str, hosts: Sequence[str], values: Mapping[str, Mapping[str, Any]], secret: bool = False
) -> list[Problem]:
    """Check that all hosts have the same value."""
    first, owner = _agreed(name, hosts, values)
    problems = []
    for host in hosts:
        value = values.get(host, {}).get(name)
        if value is not None and value != first:
            detail = "" if secret else f" ({value} here, {first} there)"
            problems.append(Problem(host, name, f"differs from {owner}'s: both must be the same{detail}"))
    return problems


def check_wait(host: str, seconds: Any, waits: Mapping[str, int]) -> list[Problem]:
    """Check that an application may take as long as the balancers wait for it.

    C(waits) holds the longest wait of each balancer. Where the application has less, Apache would end what the
    balancers still wait for; where it has more, they would end what the application was promised.
    """
    try:
        limit = int(seconds)
    except (TypeError, ValueError, OverflowError):
        return []  # the type check has reported it
    # A balancer that waits for nothing sends this application nothing.
    longest = max(filter(None, waits.values()), default=limit)
    if longest == limit:
        return []
    owner = next(name for name, wait in waits.items() if wait == longest)
    return [
        Problem(
            host,
            "was_django_request_timeout_seconds",
            f"is {limit}, but the balancers wait {longest} s at most (lb_nginx_backend_read_timeout_seconds, "
            f"lb_nginx_locations and lb_nginx_sites of {owner}): leave it out, and it follows them",
        )
    ]


def own_ports(host: str, value: Any) -> list[Any]:
    """Return the ports of this host in a list of servers, or of groups of them (C(nodes))."""
    ports: list[Any] = []
    for entry in _as_list(value):
        if not isinstance(entry, Mapping):
            continue
        if "nodes" in entry:
            ports.extend(own_ports(host, entry["nodes"]))
        elif entry.get("name") == host and entry.get("port") is not None:
            ports.append(entry["port"])
    return ports


def listening_ports(site: Site, host: str, roles: Collection[str], values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the ports that the roles of a host open there, each with the input that says so."""
    ports: list[tuple[str, Any]] = []
    for entry in site.listening:
        name = entry.get("port") or entry["nodes"]
        if entry["role"] in roles and name in values:
            found = [values[name]] if "port" in entry else own_ports(host, values[name])
            ports.extend((name, port) for port in found)
    return ports


def check_ports(host: str, ports: Sequence[tuple[str, Any]]) -> list[Problem]:
    """Check that the services of one host listen on different ports."""
    problems = []
    owners: dict[int, str] = {}
    for name, value in ports:
        try:
            port = int(value)
        except (TypeError, ValueError, OverflowError):
            continue
        if not 1 <= port <= 65535:
            problems.append(Problem(host, name, f"{port} is no port: 1 to 65535"))
        elif port in owners:
            problems.append(Problem(host, name, f"port {port} is also used by {owners[port]} on this host"))
        else:
            owners[port] = name
    return problems


# ---------------------------------------------------------------------------------------------------------
# The hosts themselves

#: Debian releases that the roles support.
RELEASES = {"12": "bookworm", "13": "trixie"}


def check_host(host: str, answer: Mapping[str, Any] | None) -> list[Problem]:
    """Check what a host said about itself: the registered result of the setup module."""
    if answer is None:
        return [Problem(host, "connection", "was not asked")]
    if answer.get("unreachable"):
        reason = " ".join(str(answer.get("msg", "no answer")).split()).removeprefix("Task failed: ")
        return [Problem(host, "connection", f"not reachable: {reason} (leave it out with --limit 'all:!{host}')")]
    facts = answer.get("ansible_facts") or {}
    if answer.get("rc", 0) not in (0, None) or "ansible_distribution" not in facts:
        reason = " ".join(
            str(
                answer.get("module_stderr") or answer.get("module_stdout") or answer.get("msg") or "no reason given"
            ).split()
        )
        return [Problem(host, "connection", f"the host cannot be managed (Python 3, sudo?): {reason[:300]}")]
    problems = []
    name = facts["ansible_distribution"]
    major = str(facts.get("ansible_distribution_major_version", ""))
    if name != "Debian" or major not in RELEASES:
        supported = " and ".join(f"{number} ({code})" for number, code in RELEASES.items())
        version = facts.get("ansible_distribution_version", major)
        problems.append(Problem(host, "operating system", f"{name} {version} is not supported: Debian {supported} are"))
    if facts.get("ansible_effective_user_id", 0) != 0:
        problems.append(
            Problem(host, "ansible_become", "the tasks do not run as root: allow this user sudo, or connect as root")
        )
    return problems
