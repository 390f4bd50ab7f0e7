"""Turn raw logs into an encoded dataset and stream batches from it."""
