"""Where websockets are: live logs, for members in the console and for agents in the data API."""

from django.urls import path

from deployments import consumers

urlpatterns = [
    path("api/data/deployments/live-logs", consumers.AgentLogs.as_asgi()),
    path(
        "console/<slug:organization>/deployments/<slug:deploy_id>/live-logs/",
        consumers.MemberLogs.as_asgi(),
    ),
]
