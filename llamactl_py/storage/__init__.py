"""What the daemon remembers: SQLite behind one connection on one thread, and the lock on the data directory."""
