"""Encode a ranking request: its JSON, its context, its stored rows."""
