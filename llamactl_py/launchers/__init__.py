"""Where instances run. A launcher starts a command and hands back a handle; who asks for that, and why, it does not know."""
