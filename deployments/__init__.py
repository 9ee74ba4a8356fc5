"""What runs: bundles, releases, environments, routing, serving and the function runtime.

Must know nothing of the gateway, whose keys and variables are handed down to it as plain values.
"""
