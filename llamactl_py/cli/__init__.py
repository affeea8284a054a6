"""The command line: one command group a file, `render` holds every table and spinner, `main` puts them together."""
