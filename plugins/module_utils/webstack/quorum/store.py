# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the site may have exactly once: values that are exchanged only by whoever saw the last one, and leases.

Reads are linearizable: what is returned was so after the question was asked. Every question may raise an Unknown, which
means that nothing is known; an answer says "there is nothing" by a Value without a text.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import Problem
from . import config
from .gateway import NOT_FOUND, PRECONDITION, Answer, Gateway, Refused, Unknown

__all__ = ["Gone", "Refused", "Store", "Swap", "Unknown", "Value", "connect", "is_known"]

#: A pause before a broken watch is tried again.
PAUSE = 0.2


class Gone(Problem):
    """The lease has ended, and with it every value that hung on it. That is known for sure."""


@dataclass(frozen=True)
class Value:
    """What the store holds under a key. Without a text it holds nothing, and said so."""

    key: str
    text: str | None
    #: Of the last change of this key, 0 for nothing; a swap goes by it.
    revision: int = 0
    lease: int = 0
    #: Of the whole store when it was read.
    seen: int = 0


@dataclass(frozen=True)
class Swap:
    """Whether the exchange was made, and what the store holds now."""

    done: bool
    now: Value


class Store:
    """The client. It keeps one connection: use it in one thread."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def get(self, key: str, seconds: float | None = None) -> Value:
        """Return what is there now."""
        answer = self.gateway.call("kv/range", {"key": _coded(key)}, seconds)
        return _value(key, answer.said.get("kvs"), _revision(answer))

    def under(self, prefix: str, seconds: float | None = None) -> list[Value]:
        """Return all values whose keys begin so."""
        raw = prefix.encode()
        body = {"key": _coded(prefix), "range_end": base64.b64encode(raw[:-1] + bytes([raw[-1] + 1])).decode()}
        answer = self.gateway.call("kv/range", body, seconds)
        seen = _revision(answer)
        return [_value(_decoded(entry["key"]), [entry], seen) for entry in answer.said.get("kvs") or ()]

    def put(self, key: str, text: str, lease: int = 0, seconds: float | None = None) -> int:
        """Write it whatever was there, and return the revision; Gone when the lease has ended."""
        body = _put(key, text, lease)["request_put"]
        return _revision(self._leased("kv/put", body, lease, seconds))

    def remove(self, key: str, seconds: float | None = None) -> None:
        """Remove it, if it is there."""
        _revision(self.gateway.call("kv/deleterange", {"key": _coded(key)}, seconds))

    def swap(
        self,
        old: Value,
        text: str | None,
        lease: int = 0,
        seconds: float | None = None,
        beside: Sequence[tuple[str, str, int]] = (),
    ) -> Swap:
        """Replace what was seen, if it is still so. None removes it. Only then `beside` is written, at the same moment:
        keys with their texts and leases.

        The text should say who wrote it. When an answer was lost, the question is asked again, and finding our own
        text there counts as done; an equal one of somebody else would count, too.
        """
        key = _coded(old.key)
        put = _put(old.key, text or "", lease)
        body = {
            "compare": [{"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": str(old.revision)}],
            "success": [
                put if text is not None else {"request_delete_range": {"key": key}},
                *(_put(*other) for other in beside),
            ],
            "failure": [{"request_range": {"key": key}}],
        }
        answer = self._leased("kv/txn", body, lease or next((one[2] for one in beside), 0), seconds)
        seen = _revision(answer)
        if answer.said.get("succeeded") is True:
            return Swap(True, Value(old.key, text, seen if text is not None else 0, lease, seen))
        try:
            now = _value(old.key, answer.said["responses"][0]["response_range"].get("kvs"), seen)
        except (KeyError, IndexError, TypeError, AttributeError):
            raise _strange(answer) from None
        ours = answer.doubtful and now.text == text and now.lease == (lease if text is not None else 0)
        return Swap(ours and now.revision != old.revision, now)

    def _leased(self, path: str, body: Mapping[str, Any], lease: int, seconds: float | None) -> Answer:
        try:
            return self.gateway.call(path, body, seconds)
        except Refused as no:
            if lease and no.grpc == NOT_FOUND:
                raise Gone(f"lease {lease:x} has ended: {no}") from no
            raise

    def grant(self, ttl: int, seconds: float | None = None) -> int:
        """Open a lease that ends `ttl` seconds after it was renewed last, and return its number."""
        # Ours, so that it is the same one when the question is asked twice.
        lease = secrets.randbits(62) + 1
        try:
            answer = self.gateway.call("lease/grant", {"ID": str(lease), "TTL": str(ttl)}, seconds)
        except Refused as no:
            if no.grpc != PRECONDITION:
                raise
        else:
            _revision(answer)
        return lease

    def keep(self, lease: int, seconds: float | None = None) -> int:
        """Renew a lease, and return the seconds that it has; Gone when it has ended."""
        answer = self.gateway.call("lease/keepalive", {"ID": str(lease)}, seconds)
        _revision(answer)
        left = _number(answer, answer.said.get("TTL", 0))
        if left <= 0:
            raise Gone(f"{answer.endpoint} says that lease {lease:x} has ended")
        return left

    def revoke(self, lease: int, seconds: float | None = None) -> None:
        """End a lease, and remove what hangs on it; one that has ended is fine."""
        try:
            self.gateway.call("lease/revoke", {"ID": str(lease)}, seconds)
        except Refused as no:
            if no.grpc != NOT_FOUND:
                raise

    def changed(self, old: Value, seconds: float) -> Value:
        """Return what is there as soon as it differs from what was seen, or after `seconds` what is there then.

        A watch only wakes us; what is returned is always read anew.
        """
        end = time.monotonic() + seconds
        now = old
        while (left := end - time.monotonic()) > 0:
            request = {"create_request": {"key": _coded(old.key), "start_revision": str(now.seen + 1)}}
            for news in self.gateway.stream("watch", request, left):
                result = news.get("result") or {}
                if result.get("events") or result.get("canceled") or "error" in news:
                    break
            now = self.get(old.key)
            if now.revision != old.revision:
                return now
            time.sleep(max(0.0, min(PAUSE, end - time.monotonic())))
        return self.get(old.key) if now is old else now


def is_known() -> bool:
    """Say whether the role `quorum` has told this host of a store."""
    return config.CONFIG.exists()


def connect(seconds: float | None = None, cluster: str | None = None) -> Store:
    """Return the client of this host, as the role `quorum` wrote it down. With `cluster` no other store counts."""
    settings = config.load()
    return Store(Gateway(settings.endpoints, settings.tls, seconds or settings.seconds, cluster))


def _put(key: str, text: str, lease: int) -> dict[str, Any]:
    return {"request_put": {"key": _coded(key), "value": _coded(text), "lease": str(lease)}}


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")


def _value(key: str, entries: Sequence[Mapping[str, Any]] | None, seen: int) -> Value:
    if not entries:
        return Value(key, None, seen=seen)
    entry = entries[0]
    return Value(
        key,
        _decoded(entry.get("value", "")),
        int(entry["mod_revision"]),
        int(entry.get("lease", 0)),
        seen,
    )


def _revision(answer: Answer) -> int:
    """Return the revision of the store. An answer without one is none: it must not look like an empty store."""
    header = answer.said.get("header")
    if not isinstance(header, Mapping):
        raise _strange(answer)
    return _number(answer, header.get("revision"))


def _number(answer: Answer, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise _strange(answer) from None


def _strange(answer: Answer) -> Unknown:
    return Unknown(f"{answer.endpoint} answers in a way that is not known: {str(answer.said)[:120]}")
