"""Who: organizations, workspaces, members, workspace tokens; access rules and encryption at rest.

The lowest app: must know nothing of money, deployments or the AI API.
"""
