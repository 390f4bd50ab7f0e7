"""Store raw rows of users and items and the events of users: SQLite and Redis."""
