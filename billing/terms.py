"""What was agreed with an organization: its margin, none unless there is a row that says so."""

from billing.models import OrganizationTerms
from orgs.models import Organization


def margin_basis_points(organization: Organization) -> int:
    """What the organization pays on top of providers' prices, in hundredths of a percent.

    One query, none if the organization was loaded with `terms`.
    """
    try:
        return organization.terms.margin_basis_points
    except OrganizationTerms.DoesNotExist:
        return 0
