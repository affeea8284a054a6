"""Figures, not tests: what is measured, how, and what came out stands in RESULTS.md. `make bench` measures again."""
