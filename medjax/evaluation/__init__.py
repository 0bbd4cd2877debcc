"""What a model's answers are worth: scores, intervals, baselines, tables and pages to look at."""
