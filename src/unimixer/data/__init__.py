"""From raw logs to the encoded store and the streaming loader."""
