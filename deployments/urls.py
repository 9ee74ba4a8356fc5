"""Console pages of deployments."""

from django.urls import path

from deployments import views

app_name = "deployments"
urlpatterns = [
    path("deployments/", views.deployment_list, name="deployment-list"),
    # deployments/<deploy_id>/
    path("deployments/<slug:deploy_id>/", views.deployment_detail, name="deployment-detail"),
    path(
        "deployments/<slug:deploy_id>/redeploy/",
        views.deployment_redeploy,
        name="deployment-redeploy",
    ),
    path(
        "deployments/<slug:deploy_id>/rollback/<slug:release_id>/",
        views.deployment_rollback,
        name="deployment-rollback",
    ),
    path("deployments/<slug:deploy_id>/delete/", views.deployment_delete, name="deployment-delete"),
]
