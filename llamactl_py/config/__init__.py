"""Settings of the daemon: what there is (`settings`), where it is read from (`load`), and where files live (`paths`)."""
