"""The training loop and what it keeps: run folder, checkpoints, trackers."""
