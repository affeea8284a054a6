"""From a request to a backend's answer. Knows targets, never processes.

`front` hears a client first and takes requests of the form that `narrow` knows; `routing`, `rewrite` and `multipart` say where
to, and what changes; `upstream` has the connections to backends, and `exchange` carries one answer over one of them; `relay` is
the whole of it for those who wait in a task. The way of one request through all of them: design.md.
"""
