"""Model folders on disk, ours and other people's."""
