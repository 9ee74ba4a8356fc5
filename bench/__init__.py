"""Measurements against budgets; speed is asserted nowhere else. `make bench` runs them all."""
