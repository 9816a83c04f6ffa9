"""Documents: read from files of many kinds, one stream larger than memory."""
