"""Numbers before a run: parameters and memory."""
