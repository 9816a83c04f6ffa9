"""What a document must be to be kept."""
