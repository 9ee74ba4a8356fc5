"""The sitemap of everything Django serves. The AI API and deployed sites are routed in asgi.py."""

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from gateway.prices_api import prices_api
from gateway.views import home

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
    # /api/prices: the public price list and the AI API's OpenAPI page
    path("api/prices/", prices_api.urls),
]
