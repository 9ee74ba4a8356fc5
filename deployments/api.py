"""The data API's deployment calls (DRF): parse, one domain call, answer.

All are POST with a JSON body and a workspace token. The five of the deploy client are served under
`aws/` and `deployments/` by the same views. Names a deployment by prefix or deploy id, always
within the caller's workspace.
"""

from django.conf import settings
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import deploying, directory, environment, logs, releases, storage, variables
from deployments import serializers as wire
from deployments.models import Deployment, Release
from orgs.data_api import IDEMPOTENCY_PARAMETER, DataApiCall, OnceView, workspace_of
from orgs.errors import DataApiError

LOG_ENTRIES_MAX = 1000

REFUSALS: dict[type[Exception], tuple[int, str]] = {
    directory.DeploymentNotFound: (404, "deployment_not_found"),
    releases.ReleaseNotFound: (404, "release_not_found"),
    releases.UnableToRollBack: (409, "rollback_not_possible"),
    releases.UnableToRelease: (400, "invalid_bundle"),
    deploying.NothingToDeploy: (409, "nothing_to_deploy"),
    deploying.TooManyUploads: (429, "too_many_uploads"),
    directory.TooManyDeployments: (409, "too_many_deployments"),
    storage.UnableToReachStore: (503, "storage_unavailable"),
}
INVALID_FIELDS: dict[type[Exception], str] = {
    directory.UnableToNameDeployment: "id",
    variables.UnableToUseVariable: "environment",
}


class DeploymentCall(DataApiCall):
    """What the calls share: finding the deployment, and domain errors as refusals."""

    def handle_exception(self, exc: Exception) -> Response:
        """Refuse with the status and code of REFUSALS; everything else is DRF's."""
        if type(exc) in REFUSALS:
            status, code = REFUSALS[type(exc)]
            exc = DataApiError(code, str(exc), status_code=status)
        elif type(exc) in INVALID_FIELDS:
            exc = exceptions.ValidationError({INVALID_FIELDS[type(exc)]: str(exc)})
        return super().handle_exception(exc)

    def find(self, target: wire.Target) -> Deployment:
        """The deployment `target` names. Raises ValidationError, DeploymentNotFound."""
        target.is_valid(raise_exception=True)
        return directory.find(workspace_of(self.request), target.name)


class GetUploadUrl(DeploymentCall):
    """Start a deploy."""

    @extend_schema(request=wire.Target, responses=wire.UploadUrlAnswer)
    def post(self, request: Request) -> Response:
        """Where to PUT the zip. A new prefix makes a new deployment; the first is the default."""
        target = wire.Target(data=request.data)
        target.is_valid(raise_exception=True)
        deployment = directory.find_or_create(workspace_of(request), target.name)
        return Response(
            {
                "deployId": deployment.deploy_id,
                "uploadUrl": deploying.issue_upload(deployment, at=timezone.now()),
                "expiresInSeconds": settings.UPLOAD_SECONDS_MAX,
                "maxBytes": settings.UPLOAD_BYTES_MAX,
            }
        )


class Deploy(DeploymentCall):
    """Finish a deploy."""

    @extend_schema(request=wire.Target, responses=wire.DeployAnswer)
    def post(self, request: Request) -> Response:
        """Check, unpack and activate the zip uploaded last. Repeating it is safe."""
        deployment = self.find(wire.Target(data=request.data))
        release = deploying.deploy(deployment, at=timezone.now())
        return Response(wire.describe_deployed(deployment, release))


class GetDeployment(DeploymentCall):
    """Look at a deployment."""

    @extend_schema(request=wire.Target, responses=wire.DeploymentAnswer)
    def post(self, request: Request) -> Response:
        """The deployment's address and state, or `{"exists": false}`."""
        try:
            deployment = self.find(wire.Target(data=request.data))
        except directory.DeploymentNotFound:
            return Response({"exists": False})
        return Response(wire.describe_deployment(deployment, releases.latest(deployment)))


class DeleteSite(DeploymentCall):
    """Take a site down."""

    @extend_schema(request=wire.ExactTarget, responses=wire.MessageAnswer)
    def post(self, request: Request) -> Response:
        """Take the site down for good, with its environment; its gateway key stops working."""
        deployment = self.find(wire.ExactTarget(data=request.data))
        deploying.delete(deployment, at=timezone.now())
        return Response({"message": f"Deleted {deployment.deploy_id}."})


class GetLogs(DeploymentCall):
    """Read what functions printed."""

    @extend_schema(request=wire.LogsRequest, responses=wire.LogsAnswer)
    def post(self, request: Request) -> Response:
        """The newest lines of the last `minutes`, oldest first."""
        asked = wire.LogsRequest(data=request.data)
        deployment = self.find(asked)
        active = deployment.active_release
        if active is None:
            return Response({"message": _why_not_deployed(deployment)})
        if active.mode == Release.Mode.STATIC:
            return Response({"message": "This site is static: it has no functions, so no logs."})
        # Read first: a line that is written meanwhile is among the entries or follows them.
        newest_id = logs.newest_id(deployment.pk)
        entries = logs.recent(
            deployment,
            minutes=asked.validated_data["minutes"],
            limit=LOG_ENTRIES_MAX + 1,
            only=asked.only,
            at=timezone.now(),
        )
        return Response(
            {
                "deployId": deployment.deploy_id,
                "mode": active.mode,
                "functionName": ", ".join(active.manifest.get("functions", {})),
                "entries": [wire.describe_log_entry(entry) for entry in entries[-LOG_ENTRIES_MAX:]],
                "hasMore": len(entries) > LOG_ENTRIES_MAX,
                "lastId": max([newest_id, *(entry.pk for entry in entries)]),
            }
        )


def _why_not_deployed(deployment: Deployment) -> str:
    latest = releases.latest(deployment)
    if latest is not None and latest.status == Release.Status.FAILED:
        return f"Nothing is deployed: the last deploy failed. {latest.failure}"
    return "Nothing is deployed here yet."


@extend_schema_view(
    post=extend_schema(
        request=wire.EnvironmentRequest,
        responses=wire.EnvironmentChangedAnswer,
        parameters=[IDEMPOTENCY_PARAMETER],
        description="Merge variables for the next deploy; null removes one. `redeploy` applies "
        "them now.",
    )
)
class UpdateEnv(DeploymentCall, OnceView):
    """Change the environment."""

    def post_once(self, request: Request) -> Response:
        """Merge variables for the next deploy; null removes one. `redeploy` applies them now."""
        asked = wire.EnvironmentRequest(data=request.data)
        deployment = self.find(asked)
        names, release = deploying.update_environment(
            deployment,
            asked.validated_data["environment"],
            and_redeploy=asked.validated_data["redeploy"],
        )
        answer = {
            "deployId": deployment.deploy_id,
            "environment": names,
            "appliesOn": "next deploy",
        }
        if release is not None:
            answer["releaseId"] = release.public_id
        return Response(answer)


class GetEnv(DeploymentCall):
    """Look at the environment."""

    @extend_schema(request=wire.ExactTarget, responses=wire.EnvironmentAnswer)
    def post(self, request: Request) -> Response:
        """What the next deploy will find, values masked."""
        deployment = self.find(wire.ExactTarget(data=request.data))
        shown = environment.masked(deployment)
        return Response(
            {
                "deployId": deployment.deploy_id,
                "environment": {name: value for name, (value, _) in shown.items()},
                "sources": {name: source.lower() for name, (_, source) in shown.items()},
                "bundle": environment.bundle_names(deployment),
            }
        )


class ListDeployments(DeploymentCall):
    """Look at all deployments."""

    @extend_schema(request=None, responses=wire.DeploymentsAnswer)
    def post(self, request: Request) -> Response:
        """The workspace's deployments, newest first."""
        found = directory.all_of(workspace_of(request))
        return Response(
            {
                "deployments": [
                    wire.describe_deployment(deployment, releases.latest(deployment))
                    for deployment in found
                ]
            }
        )


@extend_schema_view(
    post=extend_schema(
        request=wire.ExactTarget,
        responses={202: wire.RedeployAnswer},
        parameters=[IDEMPOTENCY_PARAMETER],
        description="Release the active bundle again with the environment of now, in the "
        "background.",
    )
)
class Redeploy(DeploymentCall, OnceView):
    """Apply the environment."""

    def post_once(self, request: Request) -> Response:
        """Release the active bundle again with the environment of now, in the background."""
        deployment = self.find(wire.ExactTarget(data=request.data))
        release = deploying.redeploy(deployment)
        return Response(
            {
                "deployId": deployment.deploy_id,
                "releaseId": release.public_id,
                "status": release.status.lower(),
            },
            status=202,
        )


@extend_schema_view(
    post=extend_schema(
        request=wire.RollbackRequest,
        responses=wire.DeployAnswer,
        parameters=[IDEMPOTENCY_PARAMETER],
        description="Activate an earlier release with the environment it had.",
    )
)
class Rollback(DeploymentCall, OnceView):
    """Go back."""

    def post_once(self, request: Request) -> Response:
        """Activate an earlier release with the environment it had."""
        asked = wire.RollbackRequest(data=request.data)
        deployment = self.find(asked)
        release = deploying.roll_back(
            deployment, asked.validated_data["releaseId"], at=timezone.now()
        )
        return Response(wire.describe_deployed(deployment, release))


class ListReleases(DeploymentCall):
    """Look at the releases."""

    @extend_schema(request=wire.ExactTarget, responses=wire.ReleasesAnswer)
    def post(self, request: Request) -> Response:
        """The deployment's releases, newest first, with why failed ones failed."""
        deployment = self.find(wire.ExactTarget(data=request.data))
        return Response(
            {
                "deployId": deployment.deploy_id,
                "releases": [wire.describe_release(one) for one in releases.recent(deployment)],
            }
        )
