"""Console pages of the gateway: overview and keys."""

from django.urls import path

from gateway import views

app_name = "gateway"
urlpatterns = [
    path("", views.overview, name="overview"),
    # keys: one per deployment
    path("keys/", views.key_list, name="key-list"),
    path("keys/<slug:deploy_id>/provision/", views.key_provision, name="key-provision"),
    path("keys/<slug:deploy_id>/rotate/", views.key_rotate, name="key-rotate"),
    path("keys/<slug:deploy_id>/revoke/", views.key_revoke, name="key-revoke"),
]
