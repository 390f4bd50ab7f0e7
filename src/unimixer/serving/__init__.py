"""Out of training and into a request: the feature store, the encoder, the HTTP server, the prediction log."""
