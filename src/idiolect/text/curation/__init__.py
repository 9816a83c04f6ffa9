"""From a heap of files to a corpus: the steps, the processes, the report."""
