"""The storage of uploads on several servers: names, and files that another server has."""

from __future__ import annotations

import http.server
import json
import os
import pathlib
import re
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import django
import pytest
from django.conf import settings
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import ContentFile
from django.db.models.fields.files import FieldFile
from django.test import override_settings
from host_programs import load

if not settings.configured:
    settings.configure(USE_TZ=True)
    django.setup()

webstack_media = load("was_django/files/webstack_media.py")

MOMENT = 1_700_000_000


class Server:
    """Another application server: its Apache sends the files of its directory."""

    def __init__(self, files: dict[str, bytes], status: int = 200, short: int = 0) -> None:
        self.asked: list[tuple[str, str]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version: ClassVar[str] = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers["Host"]))
                body = files.get(self.path)
                self.send_response(404 if body is None else status)
                self.send_header("Content-Length", str(len(body or b"")))
                self.send_header("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT")
                self.end_headers()
                self.wfile.write((body or b"")[: len(body or b"") - short])
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = {"address": "127.0.0.1", "port": self.server.server_port}
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Lab:
    """This server, and the others that it knows."""

    def __init__(self, path: pathlib.Path) -> None:
        self.root, self.known, self.servers = path / "media", path / "media.json", list[Server]()
        self.root.mkdir()

    def knows(self, *servers: Server) -> None:
        self.servers += servers
        said = {"host": "www.example.com", "servers": [server.place for server in servers]}
        before = self.known.stat().st_mtime_ns if self.known.exists() else 0
        self.known.write_text(json.dumps(said))
        os.utime(self.known, ns=(before + 1, before + 1))

    def storage(self, **options: Any) -> Any:
        return webstack_media.UploadStorage(**options)

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())


@pytest.fixture
def lab(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    found = Lab(tmp_path)
    monkeypatch.setattr(webstack_media, "_down", {})
    said = {"MEDIA_ROOT": str(found.root), "MEDIA_URL": "/media/", "WEBSTACK_MEDIA_SERVERS_FILE": str(found.known)}
    with override_settings(**said):
        yield found
    for server in found.servers:
        server.stop()


# --- names ------------------------------------------------------------------------------------------


def test_fifty_uploads_of_one_name_on_two_servers_are_fifty_files(lab: Lab, tmp_path: pathlib.Path) -> None:
    lab.knows()
    here, there = lab.storage(), lab.storage(location=tmp_path / "there")
    names = []
    for number in range(50):
        storage = (here, there)[number % 2]
        # As a field of a model does it.
        name = storage.generate_filename("cats/my cat.png")
        names.append(storage.save(name, ContentFile(str(number).encode()), max_length=100))
    assert len(set(names)) == 50
    assert all(name.startswith("cats/my_cat_") and name.endswith(".png") for name in names), names
    for number, name in enumerate(names):
        assert (here, there)[number % 2].open(name).read() == str(number).encode()


def test_a_name_that_is_cut_is_still_no_other_servers(lab: Lab) -> None:
    lab.knows()
    storage = lab.storage()
    long = "x" * 200 + ".png"
    names = {storage.get_available_name(storage.generate_filename(long), max_length=100) for _ in range(20)}
    assert len(names) == 20
    assert {len(name) for name in names} == {100}
    assert re.fullmatch(r"a_\w{7}\.tar\.gz", storage.generate_filename("a.tar.gz"))


def test_a_name_that_the_application_gives_itself_stays(lab: Lab) -> None:
    """What is made of an upload, a thumbnail for example, is looked for under its name."""
    lab.knows()
    assert lab.storage().save("thumbs/7.png", ContentFile(b"x")) == "thumbs/7.png"


def test_a_name_of_another_servers_file_is_not_given_again(lab: Lab) -> None:
    lab.knows(Server({"/media/report.pdf": b"theirs"}))
    assert lab.storage().save("report.pdf", ContentFile(b"ours")) != "report.pdf"
    assert (lab.root / "report.pdf").read_bytes() == b"theirs"


# --- files that are not here ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "look",
    [
        lambda storage, name: storage.open(name).read() == b"cat" * 100_000,
        lambda storage, name: storage.size(name) == 300_000,
        lambda storage, name: storage.exists(name),
        lambda storage, name: storage.get_modified_time(name).timestamp() == MOMENT,
        lambda storage, name: pathlib.Path(storage.path(name)).read_bytes() == b"cat" * 100_000,
    ],
    ids=["open", "size", "exists", "modified", "path"],
)
def test_a_file_that_is_on_its_way_is_taken_from_the_server_that_has_it(lab: Lab, look: Any) -> None:
    name = "2026/ä b#?.png"
    address = "/media/2026/%C3%A4%20b%23%3F.png"
    without, having = Server({}), Server({address: b"cat" * 100_000})
    lab.knows(without, having)
    assert look(lab.storage(), name)
    assert without.asked == having.asked == [(address, "www.example.com")]
    assert lab.left() == [name]
    assert (lab.root / name).stat().st_mode & 0o777 == 0o644
    assert (lab.root / name).stat().st_mtime == MOMENT
    assert look(lab.storage(), name)
    assert len(having.asked) == 1, "it is here now"


def test_a_file_that_nobody_has_is_not_there(lab: Lab) -> None:
    lab.knows(Server({}), Server({}))
    storage = lab.storage()
    with pytest.raises(FileNotFoundError):
        storage.open("2026/none.png")
    assert not storage.exists("2026/none.png")
    assert not list(lab.root.iterdir()), "no folder for it either"


@pytest.mark.parametrize("bad", [{"status": 403}, {"status": 301}, {"status": 500}, {"short": 7}], ids=str)
def test_what_is_not_the_whole_file_is_not_kept_and_the_next_is_asked(lab: Lab, bad: dict[str, int]) -> None:
    files = {"/media/a.png": b"picture" * 50_000}
    lab.knows(Server(files, **bad))
    storage = lab.storage()
    with pytest.raises(FileNotFoundError):
        storage.open("a.png")
    assert lab.left() == []
    webstack_media._down.clear()
    lab.knows(Server(files, **bad), Server(files))
    assert storage.open("a.png").read() == files["/media/a.png"]
    assert lab.left() == ["a.png"]


def test_a_server_that_is_down_is_left_alone_for_a_while(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"/media/{number}": b"x" for number in range(3)}
    down, up = Server(files), Server(files)
    lab.knows(down, up)
    down.stop()
    lines: list[int] = []
    connect = webstack_media.http.client.HTTPConnection.connect
    monkeypatch.setattr(
        webstack_media.http.client.HTTPConnection, "connect", lambda self: (lines.append(self.port), connect(self))
    )
    storage = lab.storage()
    assert all(storage.exists(str(number)) for number in range(3))
    assert lines.count(down.place["port"]) == 1
    assert lines.count(up.place["port"]) == 3
    lab.servers.remove(down)


def test_a_server_that_hangs_is_not_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(webstack_media, "SILENT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = {"address": "127.0.0.1", "port": silent.getsockname()[1]}
        lab.known.write_text(json.dumps({"host": "www.example.com", "servers": [hanging]}))
        assert not lab.storage().exists("a.png")


def test_writing_and_deleting_ask_nobody(lab: Lab) -> None:
    other = Server({"/media/old.png": b"x"})
    lab.knows(other)
    storage = lab.storage()
    storage.delete("older.png")
    assert storage._save("new.png", ContentFile(b"y")) == "new.png"
    assert other.asked == []
    assert storage.exists("old.png"), "afterwards it asks again"


def test_a_file_that_was_deleted_does_not_come_back(lab: Lab) -> None:
    """Another server has it until the deletion has spread. A newer file of its name is another one."""
    other = Server({"/media/2026/a.png": b"x"})
    lab.knows(other)
    storage = lab.storage()
    assert storage.exists("2026/a.png")
    storage.delete("2026/a.png")
    assert not storage.exists("2026/a.png")
    (marker,) = (lab.root / ".webstack-deleted").iterdir()
    assert marker.name.startswith("."), "Apache serves no such file"
    os.utime(marker, (MOMENT - 1, MOMENT - 1))
    assert storage.exists("2026/a.png")


def test_what_was_deleted_is_forgotten_after_a_day(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.knows(Server({}))
    folder = lab.root / ".webstack-deleted"
    folder.mkdir()
    (folder / ".old").touch()
    os.utime(folder / ".old", (MOMENT, MOMENT))
    monkeypatch.setattr(webstack_media, "_swept", {})
    lab.storage().delete("a.png")
    names = [path.name for path in folder.iterdir()]
    assert len(names) == 1
    assert ".old" not in names


def test_a_site_of_one_server_remembers_no_deletion(lab: Lab) -> None:
    lab.knows()
    storage = lab.storage()
    storage.save("a.png", ContentFile(b"x"))
    storage.delete("a.png")
    assert not list(lab.root.iterdir())


def test_another_directory_than_that_of_the_uploads_asks_nobody(lab: Lab, tmp_path: pathlib.Path) -> None:
    other = Server({"/media/a.png": b"x"})
    lab.knows(other)
    assert not lab.storage(location=tmp_path / "private").exists("a.png")
    assert other.asked == []


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/passwd"])
def test_a_name_outside_of_the_directory_asks_nobody(lab: Lab, name: str) -> None:
    other = Server({})
    lab.knows(other)
    with pytest.raises(SuspiciousFileOperation):
        lab.storage().open(name)
    assert other.asked == []


def test_what_cannot_be_kept_is_not_there_and_the_journal_says_why(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.knows(Server({"/media/2026/a.png": b"x"}))
    (lab.root / "2026").write_text("in the way of the folder")
    assert not lab.storage().exists("2026/a.png")
    with pytest.raises(OSError, match="2026"):
        lab.storage().open("2026/a.png")
    assert "'2026/a.png' cannot be taken from another server: [Errno" in capsys.readouterr().err


def test_what_cannot_be_marked_is_deleted_all_the_same(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Else a full disk would stay full."""
    lab.knows(Server({}))
    storage = lab.storage()
    storage.save("a.png", ContentFile(b"x"))
    (lab.root / ".webstack-deleted").write_text("in the way")
    storage.delete("a.png")
    assert not (lab.root / "a.png").exists()
    assert "is deleted, and may come back from another server: [Errno" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["caf\udce9.png", "\ud800.png"])
def test_a_name_that_is_no_text_is_as_in_django(lab: Lab, name: str) -> None:
    lab.knows(Server({}))
    assert not lab.storage().exists(name)


def test_a_copy_of_a_file_that_is_on_its_way_is_whole(lab: Lab) -> None:
    """What is saved is opened only while it is written, and that one is asked for."""
    lab.knows(Server({"/media/old.png": b"picture"}))
    storage = lab.storage()
    content = FieldFile(None, type("Field", (), {"storage": storage, "attname": "f", "name": "f"})(), "old.png")
    assert storage.save("copy.png", content) == "copy.png"
    assert storage.open("copy.png").read() == b"picture"


def test_a_name_that_is_too_long_for_the_disk_is_cut(lab: Lab) -> None:
    lab.knows()
    name = lab.storage().generate_filename("a/" + "\u00e4" * 127 + ".png")
    assert lab.storage().save(name, ContentFile(b"x"), max_length=500) == name
    assert lab.storage(allow_overwrite=True).generate_filename("a.png") == "a.png"


def test_servers_that_come_later_are_asked(lab: Lab) -> None:
    storage = lab.storage()
    assert not storage.exists("a.png"), "nobody said who the others are"
    lab.knows()
    assert not storage.exists("a.png")
    lab.knows(Server({"/media/a.png": b"x"}))
    assert storage.exists("a.png")


def test_servers_that_cannot_be_read_are_said(lab: Lab) -> None:
    lab.known.write_text("{")
    with pytest.raises(ValueError, match="Expecting"):
        lab.storage().exists("a.png")
