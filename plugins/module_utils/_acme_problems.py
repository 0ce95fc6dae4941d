# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What keeps the balancers from having certificates issued. No Ansible import, no I/O."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Both land in a file that a shell reads: nothing that it would act on.
_MAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")
_URL = re.compile(r"https://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?")
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


#: The inputs that are looked at, without their common prefix.
INPUTS = (
    "tls_alarm_days",
    "acme_terms_accepted",
    "acme_mail",
    "acme_url",
    "acme_renew_days",
    "acme_takeover_days",
    "acme_address",
    "acme_balancers",
)


def problems(settings: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    """Yield sentences that begin with the variable at fault. settings: the inputs without their common prefix."""
    if not settings["acme_terms_accepted"]:
        yield "lb_nginx_acme_terms_accepted must be true: read the authority's terms, then say so"
    if not settings["acme_mail"]:
        yield "lb_nginx_acme_mail is empty: the authority writes there when something goes wrong"
    elif not _MAIL.fullmatch(settings["acme_mail"]):
        yield f"lb_nginx_acme_mail is no mail address: {settings['acme_mail']!r}"
    if not _URL.fullmatch(settings["acme_url"]):
        yield f"lb_nginx_acme_url is no https:// address: {settings['acme_url']!r}"
    for name in names:
        if reason := _unprovable(name):
            yield f"lb_nginx_server_names: {name} {reason}"
    balancers = settings["acme_balancers"]
    addresses = [balancer["address"] for balancer in balancers]
    if settings["acme_address"] not in addresses:
        yield (
            f"lb_nginx_acme_balancers lacks lb_nginx_acme_address {settings['acme_address']!r}: "
            f"it lists {', '.join(addresses) or 'nobody'}"
        )
    if len(set(addresses)) != len(addresses):
        yield "lb_nginx_acme_balancers has an address twice"
    last = settings["acme_renew_days"] - settings["acme_takeover_days"] * max(len(balancers) - 1, 0)
    if settings["acme_takeover_days"] <= 0:
        yield "lb_nginx_acme_takeover_days must be above 0"
    elif last <= settings["tls_alarm_days"]:
        yield (
            f"lb_nginx_tls_alarm_days {settings['tls_alarm_days']} would alarm before the last balancer renews, "
            f"{last} days before the end (lb_nginx_acme_renew_days less lb_nginx_acme_takeover_days a further balancer)"
        )


def _unprovable(name: str) -> str:
    """Say why a web server cannot prove that a name is its own."""
    if name.startswith("*."):
        return "is a wildcard, which an authority certifies by DNS only; name the hosts, or use the mode files"
    try:
        ipaddress.ip_address(name)
        return "is an address, not a name"
    except ValueError:
        pass
    try:
        labels = name.rstrip(".").encode("idna").decode().lower().split(".")
    except UnicodeError:
        labels = [""]
    if len(labels) < 2:
        return "has no domain, so no authority certifies it"
    return "" if all(_LABEL.fullmatch(label) for label in labels) else "is no host name"
