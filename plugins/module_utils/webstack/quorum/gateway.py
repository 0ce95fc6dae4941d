# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Questions to etcd through its JSON gateway: one connection, several members, and a time limit for each answer.

A question that nobody answered is an Unknown. It is never an empty answer, and whether it took effect is not known
either: what is asked here has to bear being asked twice.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import Problem

#: Of one question, over all members.
SECONDS = 3.0
PAUSE = 0.1
#: gRPC codes with which a member says a definite no: wrong arguments, not found, exists already, not allowed, no space,
#: precondition, range, no such thing, not authenticated. With any other code it does not know itself.
DEFINITE = {3, 5, 6, 7, 8, 9, 11, 12, 16}
NOT_FOUND, PRECONDITION = 5, 9


class Unknown(Problem):
    """Nobody answered in time: nothing is known, neither what the store holds nor whether the question took effect."""


class Refused(Problem):
    """A member said no, and means it."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.grpc = code


class Unanswered(Exception):
    """One member gave no answer; `sent` says whether it may have got the question."""

    def __init__(self, text: str, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


@dataclass(frozen=True)
class Endpoint:
    """Where a member listens for clients."""

    name: str
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.name} ({self.address}:{self.port})"


@dataclass(frozen=True)
class Tls:
    """The files with which we and the members know each other. They are read at each connection: they are renewed."""

    ca: str
    certificate: str
    key: str

    def context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.load_cert_chain(self.certificate, self.key)
        except OSError as error:
            files = f"{self.ca}, {self.certificate} and {self.key}"
            raise Problem(f"one of {files} cannot be used ({error.strerror or error}): run the role quorum") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


@dataclass(frozen=True)
class Answer:
    """What a member said, and whether an earlier one may have got the same question without an answer."""

    said: Mapping[str, Any]
    endpoint: Endpoint
    doubtful: bool = False


class Gateway:
    """Asks one member after the other until one answers, and stays with it."""

    def __init__(
        self, endpoints: Sequence[Endpoint], tls: Tls, seconds: float = SECONDS, cluster: str | None = None
    ) -> None:
        if not endpoints:
            raise Problem("the quorum has no members: run the role quorum")
        self.endpoints = list(endpoints)
        self.tls = tls
        self.seconds = seconds
        #: The first that answers says which store this is, where the caller does not know it. One of another is none.
        self.cluster = cluster
        self._at = 0
        self._link: http.client.HTTPSConnection | None = None

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def call(self, path: str, body: Mapping[str, Any], seconds: float | None = None) -> Answer:
        """Ask until a member answers. A Refused is an answer, too; after `seconds` without one it is an Unknown."""
        limit = self.seconds if seconds is None else seconds
        end = time.monotonic() + limit
        # A frozen one must not use up the time of the others.
        share = limit / len(self.endpoints)
        heard: dict[Endpoint, str] = {}
        doubtful = False
        while True:
            for _ in self.endpoints:
                endpoint = self.endpoints[self._at]
                left = end - time.monotonic()
                if left <= (PAUSE if heard else 0):
                    break
                try:
                    return Answer(self._ask(endpoint, path, body, min(share, left)), endpoint, doubtful)
                except Unanswered as none:
                    # The last attempt has less time than it needs: what was said before is the reason.
                    if left >= share:
                        heard[endpoint] = str(none)
                    heard.setdefault(endpoint, str(none))
                    doubtful |= none.sent
                    self._at = (self._at + 1) % len(self.endpoints)
            if time.monotonic() + PAUSE >= end:
                said = "; ".join(f"{endpoint} {text}" for endpoint, text in heard.items())
                raise Unknown(f"no member of the quorum answers within {limit:g} s: {said or 'there was no time'}")
            time.sleep(PAUSE)

    def ask(self, endpoint: Endpoint, path: str, body: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        """Ask this member and no other, over a connection of its own."""
        try:
            with contextlib.closing(self._open(endpoint, seconds)) as link:
                return self._judged(endpoint, *self._exchange(link, path, body, seconds))
        except Unanswered as none:
            raise Unknown(f"{endpoint} {none}") from none

    def stream(self, path: str, body: Mapping[str, Any], seconds: float) -> Iterator[Mapping[str, Any]]:
        """Yield what the member that answered last says line by line; it ends with the time, or with the line.

        For news that are confirmed by a question of their own: its end says nothing.
        """
        end = time.monotonic() + seconds
        endpoint = self.endpoints[self._at]
        with (
            contextlib.suppress(Unanswered, OSError, http.client.HTTPException, ValueError),
            contextlib.closing(self._open(endpoint, seconds)) as link,
        ):
            link.request("POST", f"/v3/{path}", json.dumps(body), {"Content-Type": "application/json"})
            answer = link.getresponse()
            while (left := end - time.monotonic()) > 0:
                _limit(link, left)
                line = answer.readline()
                if not line:
                    return
                yield json.loads(line)

    def _ask(self, endpoint: Endpoint, path: str, body: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        """Ask over the connection that we keep. One that was idle may be gone: then once more over a new one."""
        end = time.monotonic() + seconds
        if self._link is not None and (self._link.host, self._link.port) == (endpoint.address, endpoint.port):
            try:
                return self._judged(endpoint, *self._exchange(self._link, path, body, seconds))
            except Unanswered:
                self.close()
                if end - time.monotonic() < seconds / 2:
                    raise
        self.close()
        link = self._open(endpoint, max(end - time.monotonic(), 0.01))
        try:
            answer = self._judged(endpoint, *self._exchange(link, path, body, max(end - time.monotonic(), 0.01)))
        except Refused:
            self._link = link
            raise
        except BaseException:
            link.close()
            raise
        self._link = link
        return answer

    def _open(self, endpoint: Endpoint, seconds: float) -> http.client.HTTPSConnection:
        link = http.client.HTTPSConnection(endpoint.address, endpoint.port, timeout=seconds, context=self.tls.context())
        try:
            link.connect()
        except OSError as error:
            link.close()
            raise Unanswered(self._why(error), sent=False) from error
        return link

    def _exchange(
        self, link: http.client.HTTPSConnection, path: str, body: Mapping[str, Any], seconds: float
    ) -> tuple[int, bytes]:
        end = time.monotonic() + seconds
        _limit(link, seconds)
        try:
            link.request("POST", f"/v3/{path}", json.dumps(body), {"Content-Type": "application/json"})
            answer = link.getresponse()
            parts = []
            while part := answer.read1(65536):
                parts.append(part)
                if (left := end - time.monotonic()) <= 0:
                    raise TimeoutError
                _limit(link, left)
            # Read to its end, and still the next question would not be taken.
            answer.close()
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(self._why(_alert(link) or error), sent=True) from error
        return answer.status, b"".join(parts)

    def _judged(self, endpoint: Endpoint, status: int, text: bytes) -> Mapping[str, Any]:
        """Return an answer that is one; what the gateway streams is its first line."""
        lines = text.decode(errors="replace").strip().splitlines()
        try:
            said = json.loads(lines[0])
        except (ValueError, IndexError):
            said = None
        if not isinstance(said, dict):
            shown = lines[0][:80] if lines else "nothing"
            raise Unanswered(f"answers {status} and no JSON: {shown}", sent=True)
        said = said.get("result", said)
        wrong = said.get("error", said) if status == 200 else said
        if status != 200 or "error" in said:
            wrong = wrong if isinstance(wrong, dict) else {"message": wrong}
            code = wrong.get("code", wrong.get("grpc_code", 2))
            reason = str(wrong.get("message") or wrong.get("error") or f"HTTP {status}")
            if code in DEFINITE:
                raise Refused(f"{endpoint} refuses: {reason}", code)
            raise Unanswered(f"says: {reason}", sent=True)
        cluster = (said.get("header") or {}).get("cluster_id")
        if cluster and self.cluster and cluster != self.cluster:
            raise Unanswered(f"belongs to another store ({cluster}, not {self.cluster})", sent=False)
        self.cluster = self.cluster or cluster
        return dict(said)

    def _why(self, error: Exception) -> str:
        """Say why there is no answer, in words."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"has a certificate that {self.tls.ca} does not vouch for: {error.verify_message}"
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            return f"does not accept our certificate {self.tls.certificate}: {error.reason}"
        if isinstance(error, TimeoutError):
            return "gives no answer in time"
        if isinstance(error, OSError) and error.strerror:
            return f"cannot be reached: {error.strerror}"
        return f"breaks off: {error or type(error).__name__}"


def _alert(link: http.client.HTTPSConnection) -> ssl.SSLError | None:
    """Return why the other side closed a connection, if it said so: a refused certificate is noticed late."""
    try:
        _limit(link, 0.1)
        if link.sock is not None:
            link.sock.recv(1)
    except ssl.SSLError as alert:
        return alert if "ALERT" in (alert.reason or "") else None
    except OSError:
        pass
    return None


def _limit(link: http.client.HTTPSConnection, seconds: float) -> None:
    if link.sock is not None:
        link.sock.settimeout(max(seconds, 0.01))
