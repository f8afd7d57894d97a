"""Between the wire and our own values, both ways. Pure functions: no request, no socket, no model."""
