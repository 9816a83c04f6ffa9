"""Tokenizers: learnt, saved, loaded, compared; they own the special ids."""
