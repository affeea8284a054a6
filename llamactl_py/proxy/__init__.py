"""From a request to a backend's answer. Knows targets, never processes: `routing` and `rewrite` decide, `relay` carries bytes."""
