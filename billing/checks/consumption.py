"""Checks of usage against ledger, rollups and prices. See `billing.checks`.

Sums are made by the database; only costs are computed again here, call by call, by the same
function that made them.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from django.db import connection
from django.db.models import Count, Sum

from billing import pricing, rollups
from billing.checks.balances import sums_by
from billing.checks.books import Books, Report
from billing.models import PriceVersion, Transfer
from billing.models.usage import usage_of
from billing.money import format_dollars
from orgs.models import Organization

CHARGED = (Transfer.Phase.POSTED, Transfer.Phase.POST_PENDING)
ROWS_PER_READ = 10_000
ROLLUP_DIFFERENCES_MAX = 1_000


def calls_are_recorded_once(books: Books, report: Report) -> None:
    """No call id twice (I7). The database refuses it; a restored or merged one may not have."""
    twice = books.records.values("call_id").annotate(times=Count("call_id")).filter(times__gt=1)
    report.differences.extend(
        f"Call {row['call_id']} is recorded {row['times']} times." for row in twice
    )


def usage_is_what_was_charged(books: Books, report: Report) -> None:
    """Usage records cost, per organization, what its transfers charged (I3)."""
    charged = sums_by(
        books.transfers.filter(code=Transfer.Code.USAGE, phase__in=CHARGED), "organization_id"
    )
    used = dict(
        books.records.values("organization_id")
        .annotate(cost=Sum("cost_nanos"))
        .values_list("organization_id", "cost")
    )
    for organization in Organization.objects.filter(pk__in={*charged, *used}):
        paid, cost = charged.get(organization.pk, 0), used.get(organization.pk, 0)
        if paid != cost:
            report.differences.append(
                f"{organization.slug}: usage records cost {cost}, transfers charged {paid} "
                f"(difference {cost - paid})."
            )
    report.figures.append(("Usage charged", format_dollars(sum(charged.values()))))


def each_charge_is_its_calls(books: Books, report: Report) -> None:
    """Every transfer of usage, with the overage beyond it, is the sum of the calls naming it (I3).

    A charge without a call, and a call whose transfer is no charge, are differences, too.
    """
    owner = "" if books.organization is None else "AND organization_id = %s"
    parameters = [] if books.organization is None else [books.organization.pk] * 2
    with connection.cursor() as cursor:
        cursor.execute(CHARGES_UNLIKE_THEIR_CALLS.format(owner=owner), parameters)
        for name, cost, charged in cursor.fetchall():
            report.differences.append(
                f"Transfer {name} charged {charged}, its calls cost {cost} "
                f"(difference {cost - charged})."
            )


# `beyond` is the part of a charge that no credit covered: its calls name the other part, if any.
CHARGES_UNLIKE_THEIR_CALLS = """
WITH used AS (
    SELECT transfer_id, SUM(cost_nanos) AS cost FROM billing_usagerecord
    WHERE transfer_id IS NOT NULL {owner} GROUP BY transfer_id
), charge AS (
    SELECT id, public_id, organization_id, idempotency_key,
        CASE WHEN code = 'USAGE' AND phase IN ('POSTED', 'POST_PENDING') THEN amount_nanos
        ELSE 0 END AS amount
    FROM billing_transfer
    WHERE (code = 'USAGE' OR id IN (SELECT transfer_id FROM used)) {owner}
)
SELECT charge.public_id, COALESCE(used.cost, 0), charge.amount + COALESCE(beyond.amount, 0)
FROM charge
LEFT JOIN used ON used.transfer_id = charge.id
LEFT JOIN charge AS beyond ON beyond.organization_id = charge.organization_id
    AND beyond.idempotency_key = charge.idempotency_key || ':over'
LEFT JOIN charge AS covered ON covered.organization_id = charge.organization_id
    AND covered.idempotency_key || ':over' = charge.idempotency_key
WHERE COALESCE(used.cost, 0) <> charge.amount + COALESCE(beyond.amount, 0)
    AND NOT (used.cost IS NULL AND covered.id IS NOT NULL)
ORDER BY charge.id LIMIT 1000
"""


def rollups_are_what_was_used(books: Books, report: Report) -> None:
    """Rollups sum to the usage records per hour (and day) and whatever tells them apart (I3)."""
    slugs = dict(Organization.objects.values_list("pk", "slug"))
    for period, row in _rollup_differences(books):
        starts_at, *dimensions = row[: 1 + len(rollups.DIMENSIONS)]
        off = row[1 + len(rollups.DIMENSIONS) :]
        tells = dict(zip(rollups.DIMENSIONS, dimensions, strict=True))
        named = ", ".join(
            f"{name} {value:+}" for name, value in zip(rollups.MEASURES, off, strict=True) if value
        )
        report.differences.append(
            f"{slugs[tells['organization_id']]}: the rollup of {tells['model_requested']} in "
            f"{tells['deploy_id']} for the {period.lower()} of {starts_at} UTC is off by {named}. "
            "`manage.py rebuild_rollups` puts it right."
        )


def _rollup_differences(books: Books) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """(period, (start, each of DIMENSIONS, rollup minus records per measure)) where not zero."""
    owner = "" if books.organization is None else "WHERE organization_id = %s"
    and_owner = owner.replace("WHERE", "AND")
    parameters = [] if books.organization is None else [books.organization.pk] * 2
    dimensions = ", ".join(rollups.DIMENSIONS)
    key = f"starts_at, {dimensions}"
    numbers = ", ".join(str(number + 1) for number in range(1 + len(rollups.DIMENSIONS)))
    names = ", ".join(rollups.MEASURES)
    is_off = " OR ".join(f"SUM({name}) <> 0" for name in rollups.MEASURES)
    for period, trunc, which in (
        (rollups.HOUR, rollups.hour_of, "period = 'HOUR'"),
        (rollups.DAY, rollups.day_of, "(period = 'DAY' OR NOT is_merged)"),
    ):
        used = ", ".join(
            f"{sql} AS {name}"
            for sql, name in zip(
                rollups.measured("billing_usagerecord"), rollups.MEASURES, strict=True
            )
        )
        minus = ", ".join(f"-{name}" for name in rollups.MEASURES)
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {key}, {', '.join(f'SUM({name})' for name in rollups.MEASURES)} FROM ("  # noqa: S608 - our own names only
                f" SELECT {trunc('starts_at')} AS starts_at, {dimensions}, {names}"
                f" FROM {rollups.TABLE} WHERE {which} {and_owner}"
                f" UNION ALL SELECT {key}, {minus} FROM (SELECT"
                f" {trunc('started_at')} AS starts_at, {dimensions}, {used}"
                f" FROM billing_usagerecord {owner} GROUP BY {numbers}) AS used"
                f") AS both_sides GROUP BY {key} HAVING {is_off}"
                f" ORDER BY {key} LIMIT {ROLLUP_DIFFERENCES_MAX}",
                parameters,
            )
            for row in cursor.fetchall():
                yield period, row


def costs_compute_again(books: Books, report: Report) -> None:
    """Every cost is what its quantities cost at its price version and margin (I10)."""
    prices = _readable_prices(report)
    count = 0
    for record in _quantities(books):
        count += 1
        try:
            price = prices[record.price_version_id]
            cost = pricing.cost_nanos(price, usage_of(record), record.margin_basis_points)
        except pricing.UnpricedBucket as error:
            report.differences.append(f"Call {_name(books, record)}: no price for {error} tokens.")
            continue
        except KeyError:
            report.differences.append(
                f"Call {_name(books, record)}: there is no readable price version "
                f"{record.price_version_id}."
            )
            continue
        if cost != record.cost_nanos:
            report.differences.append(
                f"Call {_name(books, record)}: recorded cost {record.cost_nanos}, computed {cost}."
            )
    report.figures.append(("Calls", f"{count:,}"))


def _readable_prices(report: Report) -> dict[int, pricing.Price]:
    """Every price version by its id; one that nobody can read is a difference."""
    prices = {}
    for version in PriceVersion.objects.all():
        try:
            prices[version.pk] = pricing.Price.from_rates(version.pk, version.rates)
        except (pricing.UnableToReadRates, AttributeError, TypeError) as error:
            report.differences.append(f"Price version {version.pk} cannot be read: {error}")
    return prices


def _quantities(books: Books) -> Iterable[Any]:
    """The columns that make a cost, as named tuples: a tenth of the time of model instances."""
    columns = (
        *("call_id", "price_version_id", "margin_basis_points", "cost_nanos"),
        *rollups.TOKENS,
    )
    return books.records.values_list(*columns, named=True).iterator(chunk_size=ROWS_PER_READ)


def _name(books: Books, record: Any) -> str:
    return str(books.records.values_list("request_id", flat=True).get(call_id=record.call_id))
