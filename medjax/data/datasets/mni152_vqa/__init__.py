"""Questions about slices of the ICBM152 brain MRI: see `builder` for what is asked and why."""
