"""The HTTP API: `route` is the table that registers handlers and writes OpenAPI; one file per resource."""
