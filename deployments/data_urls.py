"""Data API paths of deployments, below /api/data/. No trailing slashes: the clients send none."""

from django.urls import path

from deployments import api

# The deploy client's five calls; `aws/` is where it looks for them.
CLIENT_CALLS = {
    "get-upload-url": api.GetUploadUrl,
    "deploy": api.Deploy,
    "get-deployment": api.GetDeployment,
    "delete-site": api.DeleteSite,
    "get-logs": api.GetLogs,
}
OWN_CALLS = {
    "update-env": api.UpdateEnv,
    "get-env": api.GetEnv,
    "list": api.ListDeployments,
    "redeploy": api.Redeploy,
    "rollback": api.Rollback,
    "releases": api.ListReleases,
}

urlpatterns = [
    *(
        path(f"{root}/{name}", view.as_view(), name=f"{root}-{name}")
        for root in ("aws", "deployments")
        for name, view in CLIENT_CALLS.items()
    ),
    *(
        path(f"deployments/{name}", view.as_view(), name=f"deployments-{name}")
        for name, view in OWN_CALLS.items()
    ),
]
