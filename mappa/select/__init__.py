"""Which actions are learned, with what weight; one selection per file."""
