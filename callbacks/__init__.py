"""Lightning callbacks of MAPPA."""
