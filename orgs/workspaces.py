"""Workspaces: which one is meant, and the first one of an organization.

Owns that an organization that staff just made can be worked with at once. Must know nothing of what
is deployed there.
"""

from orgs.models import Organization, Workspace

FIRST = "main"


class WorkspaceNotFound(Exception):
    """The organization has no such workspace."""


def choose(organization: Organization, public_id: str = "") -> Workspace:
    """The workspace of this id; without one the first, which is made when there is none yet.

    Raises WorkspaceNotFound, for a foreign id too.
    """
    workspaces = Workspace.objects.filter(organization=organization)
    if public_id:
        found = workspaces.filter(public_id=public_id).first()
        if found is None:
            raise WorkspaceNotFound
        return found
    found = workspaces.first()
    if found is None:
        # Two who come at once get the same one: a name is an organization's once.
        found, _ = Workspace.objects.get_or_create(organization=organization, name=FIRST)
    return found
