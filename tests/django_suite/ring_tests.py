"""Django's tests of its cache, sessions and cached pages, run against the ring.

The modules `cache`, `sessions_tests` and `template_tests` are Django's own, from its source package, unchanged.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

from asgiref.sync import async_to_sync
from cache import tests as cache_tests
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.test import SimpleTestCase, override_settings
from sessions_tests import tests as sessions_tests
from template_tests.syntax_tests import test_cache as template_tests

# Each of Django's tests that does not apply to a ring, with the reason.
NOT_APPLICABLE = {
    "test_cache_client_class": "asserts the class of the client of one Redis; the ring has its own",
    "test_get_client": "asks for a client without a key; a ring has no single server",
    "test_get_connection_pool": "asks for the pool of one Redis; each shard has its own",
    "test_get_connection_pool_index": "asks which of one Redis' replicas is read; each shard has its own",
    "test_redis_pool_options": "looks into the pool of one Redis; test_webstack_cache_api.py does so for a ring",
    "test_client_driver_info": "asks for a client without a key",
    "test_incr_write_connection": "replaces the client's parts; incr is one script here, so that it is atomic",
}
# Django 6.1 asks these whether the asynchronous method calls the other one. Where all of them are called that way
# already, there is nothing to ask; they run in RingCacheTests.
NOT_TWICE = dict.fromkeys(
    (
        f"test_{name}_async_uses_specialized_implementation"
        for name in (
            *("close", "delete_many", "get_many", "get_or_set"),
            *("has_key", "incr", "incr_version", "set_many"),
        )
    ),
    "compares the functions that the asynchronous methods are; it runs in RingCacheTests",
)
EXCLUDED = {"cull", "zero_cull"}  # as for Django's Redis: Redis evicts by itself


def without(tests: Mapping[str, str]) -> Callable[[type], type]:
    def decorate(cls: type) -> type:
        for name, reason in tests.items():
            if hasattr(cls, name):  # another Django may not have it
                setattr(cls, name, unittest.skip(f"does not apply: {reason}")(getattr(cls, name)))
        return cls

    return decorate


@without(NOT_APPLICABLE)
@override_settings(CACHES=cache_tests.caches_setting_for_tests(base=settings.CACHES["default"], exclude=EXCLUDED))
class RingCacheTests(cache_tests.RedisCacheTests):
    # Django skips its class where its own Redis backend is not configured.
    __unittest_skip__ = False
    __unittest_skip_why__ = ""


class Awaited:
    """A cache whose methods are the asynchronous ones, each waited for."""

    def __init__(self, cache: BaseCache) -> None:
        self.__dict__["awaited"] = cache

    def __getattr__(self, name: str) -> Any:
        asynchronous: Callable[..., Any] | None = getattr(self.awaited, f"a{name}", None)
        return getattr(self.awaited, name) if asynchronous is None else async_to_sync(asynchronous)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.awaited, name, value)

    def __contains__(self, key: str) -> bool:
        return bool(self.has_key(key))


class AwaitedCaches:
    def __getitem__(self, alias: str) -> Awaited:
        return Awaited(caches[alias])


@without(NOT_TWICE)
@override_settings(CACHES=cache_tests.caches_setting_for_tests(base=settings.CACHES["default"], exclude=EXCLUDED))
class AsyncRingCacheTests(RingCacheTests):
    """The same tests again through aget, aset, aincr and so on; Django has none of its own for a real cache."""

    def setUp(self) -> None:
        for name, stand_in in (("cache", Awaited(cache_tests.cache)), ("caches", AwaitedCaches())):
            patch = mock.patch.object(cache_tests, name, stand_in)
            patch.start()
            self.addCleanup(patch.stop)
        super().setUp()


def on_the_ring(cls: type[unittest.TestCase]) -> type[unittest.TestCase]:
    """Return the class with the ring in place of the local memory that Django runs it with."""
    overridden: dict[str, Any] = getattr(cls, "_overridden_settings", None) or {}
    changed = {}
    for alias, each in overridden["CACHES"].items():
        # What LOCATION does in local memory: caches of different names share no key.
        prefix = each.get("KEY_PREFIX", each.get("LOCATION", ""))
        changed[alias] = {**each, **settings.CACHES["default"], "KEY_PREFIX": prefix}
    return override_settings(CACHES=changed)(type(f"Ring{cls.__name__}", (cls,), {"__module__": __name__}))


RingCacheUtils = on_the_ring(cache_tests.CacheUtils)
RingPrefixedCacheUtils = on_the_ring(cache_tests.PrefixedCacheUtils)
RingCacheHEADTest = on_the_ring(cache_tests.CacheHEADTest)
RingCacheI18nTest = on_the_ring(cache_tests.CacheI18nTest)
RingPrefixedCacheI18nTest = on_the_ring(cache_tests.PrefixedCacheI18nTest)
RingCacheMiddlewareTest = on_the_ring(cache_tests.CacheMiddlewareTest)
RingTestWithTemplateResponse = on_the_ring(cache_tests.TestWithTemplateResponse)


class RingCacheTagTests(template_tests.CacheTagTests):
    pass


class RingCacheSessionTests(sessions_tests.CacheSessionTests):
    pass


class RingCacheDBSessionTests(sessions_tests.CacheDBSessionTests):
    pass


class RingCacheDBSessionWithTimeZoneTests(sessions_tests.CacheDBSessionWithTimeZoneTests):
    pass


class BeyondDjangoTests(SimpleTestCase):
    """What Django has no tests for, briefly, since it depends on the server: unit tests have the rest on Redis 7.0."""

    def setUp(self) -> None:
        self.addCleanup(caches["default"].clear)
        self.cache = caches["default"]

    def test_locks(self) -> None:
        with self.cache.lock("job", timeout=5) as lock:
            self.assertIs(lock.owned(), True)
            self.assertIs(self.cache.lock("job").acquire(blocking=False), False)
            lock.extend(50)
            self.assertGreater(self.cache.ttl("job"), 40)
        self.assertIs(lock.locked(), False)

    def test_patterns(self) -> None:
        self.cache.set_many({f"page:{n}": n for n in range(2500)}, timeout=60)
        self.cache.set("other", 1)
        self.assertEqual(self.cache.delete_pattern("page:*"), 2500)
        self.assertEqual(self.cache.get("other"), 1)

    def test_times_to_live(self) -> None:
        self.cache.set_many({"a": 1}, timeout=None)
        self.assertIsNone(self.cache.ttl("a"))
        self.assertIs(self.cache.persist("a"), True)
        self.assertIs(self.cache.pexpire("a", 1500), True)
        self.assertGreater(self.cache.pttl("a"), 1000)

    def test_a_full_server_refuses_and_says_which(self) -> None:
        self.cache.set_many({f"key{n}": "old" for n in range(60)})
        final = self.cache.make_key("key1")
        client = self.cache._cache.get_client(final, write=True)
        client.config_set("maxmemory", "1")
        try:
            refused = self.cache.set_many({f"key{n}": "new" for n in range(60)})
        finally:
            client.config_set("maxmemory", "0")
        owner = self.cache.locate("key1")
        self.assertEqual(set(refused), {f"key{n}" for n in range(60) if self.cache.locate(f"key{n}") == owner})
        self.assertNotIn("old", self.cache.get_many([f"key{n}" for n in range(60)]).values())
