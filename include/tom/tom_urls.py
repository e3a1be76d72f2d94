"""TOM Toolkit's pages and API, and the uploaded data products."""

from __future__ import annotations

from django.conf import settings
from django.urls import include, path, re_path
from django.views.static import serve

urlpatterns = [
    path("", include("tom_common.urls")),
    re_path(r"^data/(?P<path>.*)$", serve, {"document_root": settings.MEDIA_ROOT}),
]
