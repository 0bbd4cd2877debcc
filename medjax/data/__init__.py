"""How examples are made: datasets, sources, transforms, prompts and batches. Knows no model."""
