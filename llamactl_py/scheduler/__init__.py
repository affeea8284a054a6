"""Who runs and who waits. Read design.md beside this file first."""
