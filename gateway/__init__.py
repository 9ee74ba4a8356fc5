"""The AI API: keys, authentication, catalog, routing, dialects, upstream calls and the proxy.

Reaches money only through `billing.metering`, and deployments only through their public functions.
"""
