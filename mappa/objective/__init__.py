"""What is learned from an epoch, one objective per file."""
