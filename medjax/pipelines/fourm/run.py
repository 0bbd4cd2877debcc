"""A run of 4M: tokenizers, then the model of every modality."""
