"""Addresses of the demo site."""

from board import views
from django.conf import settings
from django.conf.urls.static import static
from django.urls import path

urlpatterns = [
    path("", views.home, name="home"),
    path("notes/", views.notes, name="notes"),
    path("login/", views.login, name="login"),
    path("logout/", views.logout, name="logout"),
    path("counter/", views.counter, name="counter"),
    path("upload/", views.upload, name="upload"),
    path("whoami", views.whoami, name="whoami"),
    *static(settings.MEDIA_URL, document_root=settings.MEDIA_ROOT),  # development only; Apache serves it else
]
