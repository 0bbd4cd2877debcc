"""One module a dataset: from its own files to records."""
