"""Addresses of the demo site and, for any path with "echo" in it, a page that says what reached the application."""

from __future__ import annotations

import tempfile
import time

from demo_site.urls import urlpatterns as site
from django.http import HttpRequest, JsonResponse
from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
def echo(request: HttpRequest) -> JsonResponse:
    size = 0
    while chunk := request.read(1 << 20):
        size += len(chunk)
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


urlpatterns = [re_path(r"echo", echo), *site]
