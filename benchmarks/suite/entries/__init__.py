"""One file a subject; each lists its entries as ``BENCHMARKS``."""
