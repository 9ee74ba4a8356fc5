"""Template filters and tags of gateway."""
