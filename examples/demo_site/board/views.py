"""Pages of the board. Reads go on while the database is away; writes say so with a 503."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.core.files.storage import default_storage
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.text import get_valid_filename
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from . import tiers
from .models import Note

NOTES_SHOWN = 12
UPLOADS_SHOWN = 12
UPLOAD_BYTES = 5 * 1024 * 1024
NOTES_CACHE_SECONDS = 24 * 3600
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".webp"}

View = Callable[..., HttpResponse]


def message(request: HttpRequest, status: int, title: str, text: str) -> HttpResponse:
    context = {"title": title, "text": text, "status": status, "server": tiers.server()}
    response = render(request, "board/message.html", context, status=status)
    response["Cache-Control"] = "no-store"
    if status == 503:
        response["Retry-After"] = "10"
    return response


def writes(view: View) -> View:
    """A view that writes: POST only, and a plain 503 while the database is away."""

    @require_POST
    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        try:
            response = view(request)
            # Save here and not in the session middleware, where nobody could answer for a failure.
            if request.session.modified:
                request.session.save()
                request.session.modified = False
                response.set_cookie(
                    settings.SESSION_COOKIE_NAME,
                    request.session.session_key,
                    max_age=settings.SESSION_COOKIE_AGE,
                    secure=settings.SESSION_COOKIE_SECURE,
                    httponly=True,
                    samesite="Lax",
                )
        except (tiers.DatabaseAway, UpdateError, *tiers.DATABASE_ERRORS):
            connection.close()
            request.session.modified = False
            return message(
                request,
                503,
                "Nothing can be written right now",
                "The database takes no writes at the moment. Reading goes on; please send it again in a few seconds.",
            )
        tiers.forget_database_failure()
        return response

    return guarded


def latest_notes() -> tuple[list[dict[str, Any]], bool]:
    """The newest notes, and whether they are fresh from the database (else from the cache)."""
    try:
        notes = tiers.ask_database(
            lambda: list(Note.objects.values("author", "text", "server", "created")[:NOTES_SHOWN])
        )
    except tiers.DatabaseAway:
        return tiers.cached(tiers.NOTES_KEY) or [], False
    tiers.remember(tiers.NOTES_KEY, notes, NOTES_CACHE_SECONDS)
    return notes, True


def latest_uploads() -> list[dict[str, Any]]:
    try:
        files = [(p.stat().st_mtime, p) for p in Path(default_storage.path("board")).iterdir() if p.is_file()]
    except FileNotFoundError:
        return []
    newest = sorted((f for f in files if not f[1].name.startswith((".", "~"))), reverse=True)[:UPLOADS_SHOWN]
    return [
        {
            "url": default_storage.url(f"board/{p.name}"),
            "name": p.name.split("_", 1)[-1],
            "picture": p.suffix.lower() in PICTURES,
        }
        for _, p in newest
    ]


def path_of(request: HttpRequest) -> tuple[list[tiers.Tier], bool]:
    """The tiers that this request passed, and whether the database answered."""
    name = tiers.balancer(request)
    balanced = "nginx, chose the next step" if name else "no balancer before me"
    at_work = [
        tiers.Tier("balancer", "Balancer", name or "direct", balanced),
        tiers.Tier("server", "Application server", tiers.server(), "Apache, Django"),
    ]
    shard = tiers.shard(request)
    holds = "holds your session" if request.session.session_key else "holds the list of notes"
    at_work.append(tiers.Tier("shard", "Cache shard", shard, holds if shard else "asked the database instead"))
    try:
        database, read_only = tiers.database()
        at_work.append(tiers.Tier("database", "Database", database, "read-only" if read_only else "takes writes"))
    except tiers.DatabaseAway:
        at_work.append(tiers.Tier("database", "Database", None, "does not answer"))
    return at_work, at_work[-1].state == "ok"


@require_GET
@never_cache
@ensure_csrf_cookie
def home(request: HttpRequest) -> HttpResponse:
    session = tiers.session(request)
    path, _ = path_of(request)
    notes, fresh = latest_notes()
    context = {
        "path": path,
        "user": session.get("user"),
        "counter": session.get("counter", 0),
        "notes": notes[:6],
        "fresh": fresh,
        "uploads": latest_uploads()[:6],
        "release": tiers.release(),
    }
    return render(request, "board/home.html", context)


@require_GET
@never_cache
def whoami(request: HttpRequest) -> JsonResponse:
    session = tiers.session(request)
    path, _ = path_of(request)
    names = {tier.kind: tier.name for tier in path}
    answer = {
        "balancer": tiers.balancer(request),
        "server": names["server"],
        "shard": names["shard"],
        "database": names["database"],
        "user": session.get("user"),
        "counter": session.get("counter", 0),
        "release": tiers.release(),
    }
    response = JsonResponse(answer)
    response["Cache-Control"] = "no-store"
    return response


@require_http_methods(["GET", "HEAD", "POST"])
def notes(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        return write_note(request)
    # Public: the same for everybody. It reads no session and no cookie, so a balancer may keep it.
    listed, fresh = latest_notes()
    context = {"notes": listed, "fresh": fresh, "server": tiers.server(), "now": timezone.now()}
    response = render(request, "board/notes.html", context)
    response["Cache-Control"] = "public, max-age=5"
    return response


@writes
def write_note(request: HttpRequest) -> HttpResponse:
    text = request.POST.get("text", "").strip()
    if not text or len(text) > 280:
        return message(request, 400, "A note has 1 to 280 characters", "Nothing was written.")
    author = tiers.session(request).get("user") or "guest"
    Note.objects.create(author=author, text=text, server=tiers.server())
    latest_notes()
    return redirect("home")


@writes
def login(request: HttpRequest) -> HttpResponse:
    name = request.POST.get("name", "").strip()
    if not name or len(name) > 40:
        return message(request, 400, "A name has 1 to 40 characters", "You are not logged in.")
    request.session.cycle_key()
    request.session.update({"user": name, "counter": 0})
    return redirect("home")


@writes
def logout(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    request.session.modified = False
    response = redirect("home")
    response.delete_cookie(settings.SESSION_COOKIE_NAME)
    return response


@writes
def counter(request: HttpRequest) -> HttpResponse:
    if "user" not in request.session:
        return message(request, 403, "Log in first", "The counter lives in your session.")
    request.session["counter"] = request.session.get("counter", 0) + 1
    return redirect("home")


@require_POST
def upload(request: HttpRequest) -> HttpResponse:
    """Uploads need no database: the file system that all servers share is enough."""
    file = request.FILES.get("file")
    if file is None:
        return message(request, 400, "Choose a file first", "Nothing was uploaded.")
    if file.size is None or file.size > UPLOAD_BYTES:
        return message(request, 413, "The file is too large", "At most 5 MB, please.")
    try:
        name = get_valid_filename(Path(file.name or "").name)[-80:]
    except ValueError:
        return message(request, 400, "The file has no usable name", "Nothing was uploaded.")
    # Two servers never choose the same name, so no upload replaces another one while it spreads.
    unique = f"{int(time.time()):x}{secrets.token_hex(3)}_{name}"
    default_storage.save(f"board/{unique}", file)
    return redirect("home")
