"""One objective a kind of model; see `training.objective`."""
