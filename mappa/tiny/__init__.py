"""The tiny base models that ship with the project, and how they are made: `python -m mappa.tiny [NAME]`."""
