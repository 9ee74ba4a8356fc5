"""What checks share: the rows under check, the report they add to, and one moment to read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from django.db import connection, transaction
from django.db.models import Q, QuerySet

from billing.models import CreditGrant, LedgerAccount, Transfer, UsageRecord
from orgs.models import Organization


@dataclass(slots=True)
class Report:
    """Figures to read, and the differences: sentences that name the row and both values."""

    figures: list[tuple[str, str]] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether everything that must hold does."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class Books:
    """The rows under check: everything, or those of one organization."""

    organization: Organization | None
    accounts: "QuerySet[LedgerAccount]"
    transfers: "QuerySet[Transfer]"
    records: "QuerySet[UsageRecord]"
    lots: "QuerySet[CreditGrant]"

    def of_organization(self, path: str = "") -> Q:
        """The condition of rows that reach their organization by `path`."""
        return Q() if self.organization is None else Q(**{f"{path}organization": self.organization})


Check = Callable[[Books, Report], None]


def books_of(organization: Organization | None) -> Books:
    """One organization's rows, or everybody's."""
    wanted = {} if organization is None else {"organization": organization}
    return Books(
        organization,
        LedgerAccount.objects.filter(**wanted).select_related("organization"),
        Transfer.objects.filter(**wanted).order_by(),
        UsageRecord.objects.filter(**wanted).order_by(),
        CreditGrant.objects.filter(**wanted).select_related("organization").order_by("pk"),
    )


@contextmanager
def one_moment() -> Iterator[None]:
    """Everything read inside is of one moment; writers are not held up."""
    if connection.in_atomic_block:
        yield
        return
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            # Not `atomic`: our write transactions take the lock at BEGIN, a reader need not.
            cursor.execute("BEGIN DEFERRED")
            try:
                yield
            finally:
                cursor.execute("ROLLBACK")
            return
        with transaction.atomic():
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield
