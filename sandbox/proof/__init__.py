"""What shows that the sandbox holds: attempts to get out, attacks on its limits and its trainer, and who runs them."""
