"""How one sees it: numbers, statistics and pictures."""
