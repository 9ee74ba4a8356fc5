"""Ledger, prices and usage: rows that are added and never edited; one module per noun.

An organization's credit is money we owe it in service: a liability, credit-normal. Every movement
is one `Transfer` of one amount from a debit account to a credit account, so double entry holds by
construction. A call's worst case is held (PENDING) before it is sent and settled afterwards
(POST_PENDING for what it cost, VOID_PENDING when it cost nothing); the hold itself never changes.

Invariants are held by the database (constraints here, triggers in migrations), so that code which
bypasses `billing.ledger` is refused too. Only `billing.ledger` writes accounts and transfers.
Must know nothing of deployments or the gateway: usage records carry plain ids of those.
"""

from billing.models.grants import CreditGrant as CreditGrant
from billing.models.grants import GrantUse as GrantUse
from billing.models.journal import DeadLetter as DeadLetter
from billing.models.journal import Journal as Journal
from billing.models.journal import Lease as Lease
from billing.models.ledger import LedgerAccount as LedgerAccount
from billing.models.ledger import Transfer as Transfer
from billing.models.ledger import transfer_id as transfer_id
from billing.models.payments import AgentTopUp as AgentTopUp
from billing.models.payments import AutoTopUp as AutoTopUp
from billing.models.payments import Payment as Payment
from billing.models.payments import PaymentCustomer as PaymentCustomer
from billing.models.payments import PaymentEvent as PaymentEvent
from billing.models.payments import Refund as Refund
from billing.models.payments import payment_id as payment_id
from billing.models.payments import refund_id as refund_id
from billing.models.reconciliation import Reconciliation as Reconciliation
from billing.models.rollup import UsageRollup as UsageRollup
from billing.models.statement import Statement as Statement
from billing.models.terms import OrganizationTerms as OrganizationTerms
from billing.models.usage import PriceVersion as PriceVersion
from billing.models.usage import UsageRecord as UsageRecord
