"""How much: money, prices, the ledger, metering of calls.

Must know nothing of deployments or the gateway; usage records hold plain ids of those.
"""
