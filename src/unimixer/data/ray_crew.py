"""A crew of workers on a Ray cluster."""
