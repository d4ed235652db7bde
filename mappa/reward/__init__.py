"""How good a whole episode was; one reward per file."""
