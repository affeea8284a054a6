"""Instances: what one is asked to be (`options`), what it is (`state`), and the one task that moves it (`instance`)."""
