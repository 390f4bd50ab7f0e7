"""From a batch of ids and numbers to embeddings and tokens."""
