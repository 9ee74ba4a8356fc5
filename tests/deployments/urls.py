"""The data API's deployment calls alone."""

from django.urls import include, path

urlpatterns = [path("api/data/", include("deployments.data_urls"))]
