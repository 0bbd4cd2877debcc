"""What 4M makes of one modality from others: scores, baselines, and a page of every direction."""
