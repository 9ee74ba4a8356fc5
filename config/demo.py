"""The demo organization of embedded mode: people, credit, tokens, a first deployment with a key.

Owns what a first start seeds; every step is safe to repeat, so that each start may run it. The
secrets made here stay in the data folder, readable by its owner alone.
"""

import io
import json
import os
import secrets
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.utils import timezone

from deployments import deploying, directory, storage
from deployments.models import Deployment
from gateway import catalog, provisioning
from orgs import tokens
from orgs.models import Membership, Organization, User, Workspace

CREDIT_DOLLARS = "25"
EMAIL = "demo@example.com"
PLAYGROUND = Path(settings.BASE_DIR) / "examples" / "playground"


class UnableToSeed(Exception):
    """The demo's own bundle could not be deployed."""


@dataclass(slots=True)
class Demo:
    """What a person needs to start: log-in, workspace token, and a key that works at once."""

    email: str
    password: str
    auth_token: str
    gateway_key: str = ""


def seed(*, at: datetime, say: Callable[[str], None]) -> Demo:
    """Make sure the demo exists; tells through `say` what it makes. Raises UnableToSeed."""
    catalog.seed(at=at)
    organization, is_new = Organization.objects.get_or_create(
        slug="demo", defaults={"name": "Demo"}
    )
    if is_new:
        say(f"Made the organization Demo with ${CREDIT_DOLLARS} of credit.")
    # Through the command, because only billing may touch the ledger; its key makes it once.
    call_command(
        "grant_credit",
        organization.slug,
        CREDIT_DOLLARS,
        reason="Welcome credit",
        key="demo-welcome-credit",
        stdout=io.StringIO(),
    )
    workspace, _ = Workspace.objects.get_or_create(organization=organization, name="main")
    playground, _ = Workspace.objects.get_or_create(organization=organization, name="playground")
    demo = _credentials(organization, workspace)
    demo.gateway_key = _playground_key(playground, at=at)
    return demo


def _credentials(organization: Organization, workspace: Workspace) -> Demo:
    """The log-in and token of earlier starts, or new ones when any of them no longer works."""
    path = Path(settings.DATA_DIR) / "secrets" / "demo.json"
    user = User.objects.filter(email=EMAIL).first()
    if path.exists() and user is not None:
        kept = Demo(**json.loads(path.read_text()), gateway_key="")
        if user.check_password(kept.password) and _token_works(kept.auth_token):
            return kept
    password = "-".join(secrets.token_hex(2) for _ in range(4))
    user = user or User.objects.create_superuser(EMAIL, password)
    user.set_password(password)
    user.save()
    Membership.objects.get_or_create(
        organization=organization, user=user, defaults={"role": Membership.Role.OWNER}
    )
    _, token = tokens.issue(workspace, name="Printed by make run")
    demo = Demo(EMAIL, password, token)
    write_private(path, {k: v for k, v in asdict(demo).items() if k != "gateway_key"})
    return demo


def _token_works(token: str) -> bool:
    try:
        tokens.verify(token, at=timezone.now())
    except tokens.UnableToAuthenticate:
        return False
    return True


def _playground_key(workspace: Workspace, *, at: datetime) -> str:
    """The key of a small static site, so that the first call needs no deployment of one's own."""
    try:
        deployment = directory.require_deployed(workspace)
    except directory.DeploymentNotFound:
        deployment = _deploy_playground(workspace, at=at)
    try:
        return provisioning.provision(workspace, deployment.deploy_id, at=at).secret
    except provisioning.UnableToRevealKey:  # the data folder's VAULT_KEY was replaced
        return provisioning.rotate(workspace, deployment.deploy_id, at=at).secret


def _deploy_playground(workspace: Workspace, *, at: datetime) -> Deployment:
    deployment = directory.find_or_create(workspace)
    url = deploying.issue_upload(deployment, at=at)
    upload = deploying.expect_upload(url.rpartition("/")[2])
    with storage.Incoming() as incoming:
        incoming.write(_zip_of(PLAYGROUND))
        deploying.receive(upload, incoming.keep(), at=at)
    deploying.deploy(deployment, at=at)
    return directory.require_deployed(workspace)


def _zip_of(folder: Path) -> bytes:
    """A zip of a small folder, in memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return buffer.getvalue()


def write_private(path: Path, values: dict[str, object]) -> None:
    """JSON only its owner may read, replaced in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(values, file, indent=2)
    temporary.replace(path)
