"""Who is measured: one file each. `base` says what all of them have."""
