"""Edits of a built model: heads for labels."""
