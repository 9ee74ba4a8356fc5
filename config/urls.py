"""The sitemap of everything Django serves. The AI API and deployed sites are routed in asgi.py."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path
from django.views import defaults
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from billing.webhooks import stripe_webhook
from gateway.prices_api import prices_api
from gateway.views import home

DATA_API = "/api/data/"


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404: agents get the data API's error shape, people a page."""
    if not request.path.startswith(DATA_API):
        return defaults.page_not_found(request, exception)
    message = f"No such call: {request.path}. The calls are listed at {DATA_API}docs."
    return JsonResponse({"error": {"code": "not_found", "message": message}}, status=404)


def server_error(request: HttpRequest, *_: Any) -> HttpResponse:
    """500: the same for a bug of ours, whose details are in the log."""
    if not request.path.startswith(DATA_API):
        return defaults.server_error(request)
    message = "The platform failed to serve this request. Please retry."
    return JsonResponse({"error": {"code": "internal_error", "message": message}}, status=500)


handler404 = not_found
handler500 = server_error

urlpatterns = [
    path("", home, name="home"),
    path("admin/", admin.site.urls),
    # /accounts/: log-in and log-out
    path("accounts/", include("allauth.account.urls")),
    # /console/<organization>/: what members see
    path("console/<slug:organization>/", include("gateway.urls")),
    path("console/<slug:organization>/", include("billing.urls")),
    path("console/<slug:organization>/", include("deployments.urls")),
    path("console/<slug:organization>/", include("orgs.urls")),
    # /api/data/: what agents call, with a workspace token
    path("api/data/schema", SpectacularAPIView.as_view(), name="data-api-schema"),
    path(
        "api/data/docs",
        SpectacularSwaggerView.as_view(url_name="data-api-schema"),
        name="data-api-docs",
    ),
    path("api/data/", include("gateway.data_urls")),
    path("api/data/", include("deployments.data_urls")),
    path("api/data/", include("billing.data_urls")),
    # /webhooks/: what the payment provider tells
    path("webhooks/stripe", stripe_webhook, name="stripe-webhook"),
    # /api/prices: the public price list and the AI API's OpenAPI page
    path("api/prices/", prices_api.urls),
]
