"""Networks on disk: reading, writing, putting together, growing; public weights in `converters`."""
