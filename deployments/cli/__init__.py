"""The command line client of the deploy protocol: `python -m deployments.cli`.

Installed alone as `aigw` (pyproject.toml, docs/cli.md): knows the wire, Click, Rich, httpx and
websockets, and of the platform only the pure rules of `deployments.variables`; so it starts fast
and works against any server that speaks the protocol.
"""
