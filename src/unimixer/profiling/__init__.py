"""Count parameters and FLOPs of a model, and measure its memory and latency."""
