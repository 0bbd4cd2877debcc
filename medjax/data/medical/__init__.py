"""The field's datasets: read from their own files, conditioned, built once, given as examples."""
