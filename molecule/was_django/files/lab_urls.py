"""Pages of the lab beside those of the demo site.

One waits for the database, one fails, one prints, one keeps uploads as a model's field does. Any path with "echo" in it
says what reached the application.
"""

from __future__ import annotations

import tempfile
import time

from demo_site.urls import urlpatterns as demo_site
from django.core.files.storage import default_storage
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path, re_path
from django.views.decorators.csrf import csrf_exempt


def slow(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(%s) /* lab-slow */", [float(request.GET["seconds"])])
    return HttpResponse("slept")


def fail(request: HttpRequest) -> HttpResponse:
    raise ValueError(f"a failure of the lab {request.GET.get('mark', '')}")


def say(request: HttpRequest) -> HttpResponse:
    print("printed by the lab", request.GET.get("mark", ""))
    return HttpResponse("said")


@csrf_exempt
def keep(request: HttpRequest) -> HttpResponse:
    """Keep a file and say its name; with a name, say what is in the file."""
    if request.method == "POST":
        file = request.FILES["file"]
        return HttpResponse(default_storage.save(default_storage.generate_filename(f"lab/{file.name}"), file))
    with default_storage.open(request.GET["name"]) as kept:
        return HttpResponse(kept.read(), content_type="text/plain")


@csrf_exempt
def echo(request: HttpRequest) -> JsonResponse:
    size = 0
    while chunk := request.read(1 << 20):
        size += len(chunk)
    if "mark" in request.GET:
        print("echo of the lab", request.GET["mark"])
    time.sleep(float(request.GET.get("sleep", "0")))
    answer = JsonResponse(
        {
            "PATH_INFO": request.META["PATH_INFO"],
            "REQUEST_URI": request.META["REQUEST_URI"],
            "QUERY_STRING": request.META["QUERY_STRING"],
            "headers": {name: len(value) for name, value in request.headers.items()},
            "body": size,
            "temporary": tempfile.gettempdir(),
        }
    )
    if "answer" in request.GET:
        answer["X-Long"] = "x" * int(request.GET["answer"])
    return answer


urlpatterns = [
    path("lab/slow", slow),
    path("lab/fail", fail),
    path("lab/say", say),
    path("lab/keep", keep),
    re_path(r"echo", echo),
    *demo_site,
]
