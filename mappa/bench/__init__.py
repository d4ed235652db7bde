"""What generation, update, judge and a whole epoch take, measured: `python -m mappa.bench`."""
