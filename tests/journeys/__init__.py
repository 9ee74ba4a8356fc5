"""End-to-end stories against the platform as `make run` starts it, over real HTTP."""
