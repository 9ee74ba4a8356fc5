"""Template filters and tags of orgs."""
