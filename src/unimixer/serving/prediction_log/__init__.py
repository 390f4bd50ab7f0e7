"""Log every answer, in Parquet files or in PostgreSQL, and replay the log."""
