"""ops/reference."""
