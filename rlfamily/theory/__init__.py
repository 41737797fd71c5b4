"""What the papers prove, computed on worlds small enough to enumerate, with the package's own losses."""
