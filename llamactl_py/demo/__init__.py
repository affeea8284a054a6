"""Tiny models that count to ten, written in a moment and without a download: for the demo and for tests."""
