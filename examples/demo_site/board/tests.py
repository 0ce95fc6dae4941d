"""What the board promises, with all tiers there and with one away."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from django.core.cache import cache
from django.core.cache.backends.base import BaseCache
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import OperationalError, connection
from django.test import Client, TestCase, override_settings

from . import tiers
from .models import Note


class BrokenCache(BaseCache):
    """A cache whose server is gone and whose client says so loudly."""

    def __init__(self, _location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    def _away(self, *_args: Any, **_options: Any) -> Any:
        raise ConnectionError("no cache server")

    add = get = set = delete = has_key = touch = clear = _away


@contextmanager
def database_down() -> Iterator[mock.Mock]:
    """Every statement fails as it does when the server is gone."""

    def gone(*_args: Any) -> None:
        raise OperationalError(2002, "Can't connect to server")

    with ExitStack() as stack:
        # Closing would end the test's transaction.
        stack.enter_context(mock.patch.object(connection, "close"))
        statement = stack.enter_context(mock.patch("board.tests.gone_statement", side_effect=gone))
        stack.enter_context(connection.execute_wrapper(statement))
        yield statement
    tiers.forget_database_failure()


def gone_statement(*_args: Any) -> None:
    raise NotImplementedError


class BoardTest(TestCase):
    def setUp(self) -> None:
        cache.clear()
        tiers.forget_database_failure()
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        media = override_settings(MEDIA_ROOT=folder)
        media.enable()
        self.addCleanup(media.disable)
        self.media = Path(folder)

    def login(self, name: str = "ada") -> None:
        self.assertRedirects(self.client.post("/login/", {"name": name}), "/")


class Pages(BoardTest):
    def test_home_names_every_tier(self) -> None:
        page = self.client.get("/", headers={"X-Webstack-Balancer": "lb1"})
        self.assertContains(page, "lb1")
        self.assertContains(page, tiers.server())
        self.assertContains(page, "sqlite")
        self.assertNotContains(page, "does not answer")

    def test_home_and_whoami_are_never_stored(self) -> None:
        for path in ("/", "/whoami"):
            self.assertIn("no-store", self.client.get(path)["Cache-Control"])

    def test_a_strange_balancer_name_is_not_shown(self) -> None:
        page = self.client.get("/whoami", headers={"X-Webstack-Balancer": "<b>lb1</b>"})
        self.assertIsNone(page.json()["balancer"])

    def test_whoami(self) -> None:
        self.login()
        with mock.patch.dict("os.environ", {"WEBSTACK_RELEASE": "r1"}):
            answer = self.client.get("/whoami", headers={"X-Webstack-Balancer": "lb2"}).json()
        self.assertEqual(
            answer,
            {
                "balancer": "lb2",
                "server": tiers.server(),
                "shard": "locmem",
                "database": "sqlite",
                "user": "ada",
                "counter": 0,
                "release": "r1",
            },
        )

    def test_shard_is_the_one_of_the_session(self) -> None:
        self.login()
        key = self.client.cookies["sessionid"].value
        backend = "django.core.cache.backends.locmem.LocMemCache"
        with mock.patch(f"{backend}.locate", create=True, return_value="s3") as locate:
            self.assertEqual(self.client.get("/whoami").json()["shard"], "s3")
        locate.assert_called_with(f"django.contrib.sessions.cached_db{key}")

    def test_mysql_is_asked_for_its_name(self) -> None:
        with (
            mock.patch.object(connection, "vendor", "mysql"),
            mock.patch("board.tiers._select", return_value=("db2", 1)) as select,
        ):
            self.assertEqual(tiers.database(), ("db2", True))
        select.assert_called_once_with("SELECT @@hostname, @@read_only")

    def test_reading_a_session_writes_nothing(self) -> None:
        self.login()
        with self.assertNumQueries(1):  # the name of the database; the session comes from the cache
            answer = self.client.get("/whoami")
        self.assertNotIn("sessionid", answer.cookies)

    def test_counter_counts_by_post_only(self) -> None:
        self.login()
        self.client.post("/counter/")
        self.client.post("/counter/")
        self.assertEqual(self.client.get("/counter/").status_code, 405)
        self.assertEqual(self.client.get("/whoami").json()["counter"], 2)

    def test_counter_needs_a_login(self) -> None:
        self.assertEqual(self.client.post("/counter/").status_code, 403)

    def test_logout(self) -> None:
        self.login()
        self.client.post("/logout/")
        self.assertIsNone(self.client.get("/whoami").json()["user"])

    def test_login_changes_the_session_key(self) -> None:
        self.login()
        before = self.client.cookies["sessionid"].value
        self.login("grace")
        self.assertNotEqual(self.client.cookies["sessionid"].value, before)

    def test_forms_are_protected(self) -> None:
        client = Client(enforce_csrf_checks=True)
        for path in ("/login/", "/counter/", "/notes/", "/upload/"):
            self.assertEqual(client.post(path, {"name": "x", "text": "x"}).status_code, 403)
        client.get("/")
        token = client.cookies["csrftoken"].value
        self.assertEqual(client.post("/notes/", {"text": "hello", "csrfmiddlewaretoken": token}).status_code, 302)


class Notes(BoardTest):
    def test_a_note_is_written_and_listed(self) -> None:
        self.login("<ada>")
        self.client.post("/notes/", {"text": "hello <b>"})
        self.assertEqual(Note.objects.get().author, "<ada>")
        self.assertContains(self.client.get("/"), "hello &lt;b&gt;")
        self.assertContains(self.client.get("/notes/"), "&lt;ada&gt;")

    def test_bad_notes(self) -> None:
        for text in ("", "  ", "x" * 281):
            self.assertEqual(self.client.post("/notes/", {"text": text}).status_code, 400)
        self.assertFalse(Note.objects.exists())

    def test_the_public_page_is_the_same_for_everybody(self) -> None:
        self.login()
        page = self.client.get("/notes/")
        self.assertEqual(page["Cache-Control"], "public, max-age=5")
        self.assertNotIn("Vary", page)
        self.assertFalse(page.cookies)
        self.assertNotContains(page, "csrfmiddlewaretoken")


class Uploads(BoardTest):
    def test_an_upload_is_kept_and_listed(self) -> None:
        self.client.post("/upload/", {"file": SimpleUploadedFile("a b.png", b"picture")})
        (file,) = (self.media / "board").iterdir()
        self.assertEqual(file.read_bytes(), b"picture")
        self.assertContains(self.client.get("/"), f"/media/board/{file.name}")

    def test_a_path_in_the_name_goes_nowhere(self) -> None:
        self.client.post("/upload/", {"file": SimpleUploadedFile("../../x.sh", b"")})
        self.client.post("/upload/", {"file": SimpleUploadedFile("x.sh", b"1")})
        self.assertTrue(all(p.parent == self.media / "board" for p in self.media.rglob("*.sh")))

    def test_same_name_twice(self) -> None:
        for content in (b"1", b"2"):
            self.client.post("/upload/", {"file": SimpleUploadedFile("same.txt", content)})
        self.assertEqual(len(list((self.media / "board").iterdir())), 2)

    def test_missing_and_too_large(self) -> None:
        self.assertEqual(self.client.post("/upload/").status_code, 400)
        large = SimpleUploadedFile("large.bin", b"x" * (5 * 1024 * 1024 + 1))
        self.assertEqual(self.client.post("/upload/", {"file": large}).status_code, 413)


class DatabaseDown(BoardTest):
    def setUp(self) -> None:
        super().setUp()
        self.login()
        self.client.post("/notes/", {"text": "kept in the cache"})

    def test_reads_go_on(self) -> None:
        with database_down():
            page = self.client.get("/")
            self.assertContains(page, "The database does not answer")
            self.assertContains(page, "kept in the cache")
            self.assertContains(page, "Logged in as")
            self.assertContains(self.client.get("/notes/"), "kept in the cache")
            answer = self.client.get("/whoami")
        self.assertEqual(answer.status_code, 200)
        self.assertEqual((answer.json()["user"], answer.json()["database"]), ("ada", None))

    def test_a_visitor_without_a_cached_session_still_reads(self) -> None:
        cache.clear()
        with database_down():
            page = self.client.get("/")
            self.assertContains(page, "The database does not answer")
        self.assertNotIn("sessionid", page.cookies)
        self.assertContains(self.client.get("/"), "Logged in as")

    def test_writes_say_no_plainly(self) -> None:
        writes = {"/notes/": {"text": "x"}, "/counter/": {}, "/login/": {"name": "x"}, "/logout/": {}}
        with database_down():
            for path, data in writes.items():
                answer = self.client.post(path, data)
                self.assertContains(answer, "Nothing can be written", status_code=503)
                self.assertEqual(answer["Retry-After"], "10")
                self.assertEqual(answer["Cache-Control"], "no-store")
        self.assertEqual(self.client.get("/whoami").json()["counter"], 0)
        self.assertEqual(self.client.get("/whoami").json()["user"], "ada")

    def test_uploads_need_no_database(self) -> None:
        with database_down():
            answer = self.client.post("/upload/", {"file": SimpleUploadedFile("a.txt", b"1")})
        self.assertEqual(answer.status_code, 302)

    def test_a_dead_database_is_asked_once(self) -> None:
        with database_down() as statement:
            for _ in range(5):
                self.client.get("/whoami")
            self.assertEqual(statement.call_count, 1)

    def test_writes_work_again_at_once(self) -> None:
        with database_down():
            self.client.get("/")
        self.assertEqual(self.client.post("/counter/").status_code, 302)
        self.assertEqual(self.client.get("/whoami").json()["counter"], 1)


@override_settings(CACHES={"default": {"BACKEND": "board.tests.BrokenCache"}})
class CacheDown(TestCase):
    def test_the_database_carries_session_and_notes(self) -> None:
        store = tiers.DatabaseSession()
        store.update({"user": "ada", "counter": 4})
        store.save()
        Note.objects.create(author="ada", text="from the database", server="x")
        self.client.cookies["sessionid"] = store.session_key or ""
        self.assertContains(self.client.get("/"), "from the database")
        answer = self.client.get("/whoami").json()
        self.assertEqual((answer["user"], answer["counter"]), ("ada", 4))
