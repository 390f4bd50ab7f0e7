"""Online experiments: specification, assignment and events, which the server uses; analysis and simulation above it."""
