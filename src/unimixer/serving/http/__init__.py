"""Serve HTTP: routes, middleware, connections, the OpenAPI page."""
