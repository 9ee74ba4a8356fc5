"""The command line client of the deploy protocol: `python -m deployments.cli`.

A client that could be installed alone: knows the wire, Click, Rich and httpx; must know nothing of
Django or of any other module of the platform, so that it starts fast and works against any server
that speaks the protocol.
"""
