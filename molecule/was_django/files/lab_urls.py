"""Pages of the lab beside those of the demo site: one that waits for the database, one that fails, one that prints."""

from demo_site.urls import urlpatterns as demo_site
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path


def slow(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(%s) /* lab-slow */", [float(request.GET["seconds"])])
    return HttpResponse("slept")


def fail(request: HttpRequest) -> HttpResponse:
    raise ValueError(f"a failure of the lab {request.GET.get('mark', '')}")


def say(request: HttpRequest) -> HttpResponse:
    print("printed by the lab", request.GET.get("mark", ""))
    return HttpResponse("said")


urlpatterns = [path("lab/slow", slow), path("lab/fail", fail), path("lab/say", say), *demo_site]
