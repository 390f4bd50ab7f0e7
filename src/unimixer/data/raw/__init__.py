"""Read raw files: adapters of data sets, readers of CSV and Parquet, values, times, and a first schema."""
