"""Tests mirror the code: tests/<app>/test_<module>.py; tests/journeys holds end-to-end stories."""
