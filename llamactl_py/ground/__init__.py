"""What every room stands on: errors, names, durations, waiting, the clock. Imports the standard library and msgspec only."""
