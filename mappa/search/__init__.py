"""Where the next attempt at a task leaves an earlier one; one search per file."""
