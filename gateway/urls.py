"""Console pages of the gateway: overview, keys and limits."""

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
    # limits: of the organization, its workspaces, deployments and keys
    path("limits/", views.limit_list, name="limit-list"),
    path("limits/<slug:scope>/<slug:name>/", views.limit_detail, name="limit-detail"),
    path("limits/<slug:scope>/<slug:name>/set/", views.limit_set, name="limit-set"),
]
