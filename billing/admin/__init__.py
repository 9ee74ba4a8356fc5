"""Staff's view of money, one module per kind of rows. Nothing is edited: a mistake gets a further
row.
"""

from billing.admin import journals as journals
from billing.admin import ledger as ledger
from billing.admin import payments as payments
