# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The channel between balancers: TLS with a certificate of the internal authority on both sides."""

from __future__ import annotations

import json
import pathlib
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any

from ..core.errors import Problem
from ..core.summary import newer

#: The format of questions and answers. During an upgrade balancers of two versions talk to each other. A question of
#: the first format has no number, as all of a host from before there was one.
FORMAT = 1

#: Certificate and key of this balancer for the other balancers, and the authority of both.
CHANNEL = pathlib.Path("/etc/webstack/tls/channel")
#: A name that only balancers' certificates for the channel have, and no other one of the internal authority.
CHANNEL_NAME = "balancers.webstack.internal"
#: How long another balancer may take to answer, and how long the authority to issue.
CHANNEL_SECONDS = 10
#: How long all of an answer may take.
EXCHANGE_SECONDS = 60
ANSWER_BYTES = 4 << 20


def context(side: int) -> ssl.SSLContext:
    tls = ssl.SSLContext(side)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(CHANNEL / "ca.crt")
    tls.load_cert_chain(CHANNEL / "own.crt", CHANNEL / "own.key")
    return tls


def ask(peer: Mapping[str, Any], word: str) -> dict[str, Any]:
    """Ask another balancer. A Problem says that it refuses, or that it speaks a newer format."""
    answer = json.loads(exchange(peer, word if FORMAT == 1 else f"{word} {FORMAT}") or b"{}")
    if not isinstance(answer, dict):
        raise Problem("its answer is no table")
    if problem := newer(answer, FORMAT) or answer.get("refused"):
        raise Problem(str(problem))
    return answer


def understood(question: bytes) -> str:
    """Return the word of another balancer's question; a Problem names one of a newer format."""
    word, _, number = question.decode("ascii", "replace").removesuffix("\n").partition(" ")
    if problem := newer({"format": int(number) if number.isdigit() else number or 1}, FORMAT):
        raise Problem(f"the other balancer {problem}")
    return word


def exchange(peer: Mapping[str, Any], question: str) -> bytes:
    """Say one line to another balancer and return its answer."""
    end = time.monotonic() + EXCHANGE_SECONDS
    with (
        socket.create_connection((peer["address"], peer["port"]), CHANNEL_SECONDS) as plain,
        context(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(plain, server_hostname=CHANNEL_NAME) as tls,
    ):
        tls.sendall(f"{question}\n".encode())
        answer = b""
        while chunk := tls.recv(65536):
            answer += chunk
            if len(answer) > ANSWER_BYTES:
                raise ValueError("the answer is too long")
            if time.monotonic() > end:
                raise TimeoutError(f"no end of the answer within {EXCHANGE_SECONDS} s")
        return answer


def is_balancer(certificate: dict[str, Any]) -> bool:
    """Say whether a verified certificate belongs to a balancer, and not to another host of the site."""
    return ("DNS", CHANNEL_NAME) in certificate.get("subjectAltName", ())
