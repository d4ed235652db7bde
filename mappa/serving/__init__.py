"""A trained team in use: where it is stored, how it answers, and the endpoint before it."""
