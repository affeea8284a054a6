"""Who asks (`keys`), and what they may (`policy`)."""
