"""Questions and answers made by a language model from what a dataset says of its images."""
