import hashlib
import pathlib

import decouple
from django.conf import settings
from django.core import signing
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import path


def facts(request: HttpRequest) -> JsonResponse:
    request.session["seen"] = True
    old = signing.Signer(key=settings.SECRET_KEY_FALLBACKS[0]).sign("x")
    return JsonResponse(
        {
            "hello": pathlib.Path("hello.txt").read_text(),
            "derived": hashlib.sha256(settings.SECRET_KEY.encode()).hexdigest() == settings.TOKEN_KEY,
            "features": settings.FEATURES,
            "former key": signing.Signer().unsign(old),
            "extra package": decouple.__name__,
            "host": request.get_host(),
        }
    )


def write(_request: HttpRequest) -> JsonResponse:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO django_session VALUES ('lab', 'x', '2100-01-01')")
    raise ValueError("after the row was written")


def rows(_request: HttpRequest) -> JsonResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM django_session WHERE session_key = 'lab'")
        return JsonResponse({"rows": cursor.fetchone()[0]})


urlpatterns = [path("facts", facts), path("write", write), path("rows", rows)]
