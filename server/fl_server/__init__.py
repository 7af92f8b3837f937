"""The coordinator of Consilium."""
