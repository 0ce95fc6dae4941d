# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The certificates of this balancer.

  webstack tls status [--json]   the certificates that nginx is given: until when, from whom, for which names
  webstack tls run               what the timer does: take over what another balancer has got, renew what is due,
                                 write the metrics, fail when something expires soon
  webstack tls renew [NAME ...]  renew now, due or not
  webstack tls serve             answer another balancer, whose connection is the standard input

One balancer asks the certificate authority. The authority's check may reach any balancer, and each can answer it. The
others then take the certificate from the one that has it. The order of the balancers says which one asks: the first
when the certificate is due, each further one some days later. So if the first is dead the next one asks, and they need
not agree on anything.

Certificate and key are in one file, which is replaced by a rename. So nginx never reads half a pair.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
from collections.abc import Sequence
from typing import Any

from ..core import files, lock, systemd
from ..core.arguments import Parser
from ..core.errors import GOOD, Problem
from ..core.say import WARNING, say
from ..core.summary import document
from ..core.table import table
from . import balancer, channel
from .summary import summary_of

#: How long a command waits for another one, which may wait for the authority.
LOCK_SECONDS = 60


def parser() -> Parser:
    """Return what reads the words of this tier."""
    found = Parser("tls", __doc__)
    words = found.add_subparsers(dest="word", required=True, metavar="COMMAND")
    words.add_parser("status").add_argument("--json", action="store_true")
    words.add_parser("run")
    words.add_parser("renew").add_argument("names", nargs="*", metavar="NAME")
    words.add_parser("serve")
    return found


def main(arguments: Sequence[str]) -> int:
    """Run a command of this tier."""
    options = parser().parse_args(arguments)
    if options.word == "serve":
        return serve()
    mine = balancer.Balancer()
    if options.word == "status":
        rows = mine.rows()
        if options.json:
            print(json.dumps(document({"tls": summary_of(rows)}, certificates=rows)))
        else:
            print(as_text(rows))
        return int(any(row["alarmed"] for row in rows))
    files.folder(balancer.STATE)
    with lock.hold("tls", f"certificates: {options.word}", LOCK_SECONDS):
        if options.word == "run":
            return mine.run()
        if not mine.acme:
            raise Problem("the certificates here come from the controller: run the playbook to renew them")
        unknown = sorted(set(options.names) - set(mine.paths))
        if unknown:
            raise Problem(f"there is no certificate {', '.join(unknown)}, only {', '.join(mine.paths)}")
        return mine.run(options.names or list(mine.paths))


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    lines = [("CERTIFICATE", "DAYS", "EXPIRES", "ISSUER", "NAMES", "STATE")]
    for row in rows:
        days = "-" if row["days"] is None else f"{row['days']:.0f}"
        names = ", ".join(row["names"]) or "-"
        lines.append((row["name"], days, row["expires"] or "-", row["issuer"] or "-", names, row["problem"] or "good"))
    return table(lines)


def answer(question: bytes) -> bytes:
    """Do what another balancer asks for, and return what it is told."""
    word = channel.understood(question)
    if word == "get":
        return json.dumps(balancer.Balancer().answer()).encode()
    if word != "look":
        raise Problem("an unknown word was said")
    systemd.tell("start", "--no-block", "webstack-tls.service")
    return b""


def serve() -> int:
    """Answer another balancer. Anyone can connect, but only a balancer of the site gets an answer."""
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as plain:
        plain.settimeout(channel.CHANNEL_SECONDS)
        try:
            with channel.context(ssl.PROTOCOL_TLS_SERVER).wrap_socket(plain, server_side=True) as tls:
                if not channel.is_balancer(tls.getpeercert() or {}):
                    raise Problem("the other side is no balancer")
                try:
                    reply = answer(tls.recv(16))
                except Problem as problem:
                    tls.sendall(json.dumps({"format": channel.FORMAT, "refused": str(problem)}).encode())
                    raise
                tls.sendall(reply)
        except (OSError, Problem) as exc:
            say(f"a connection was refused: {exc}", WARNING)
    return GOOD
