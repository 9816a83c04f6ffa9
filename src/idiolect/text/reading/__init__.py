"""Raw files of many kinds, however broken or hostile: documents, or what could not be read."""
