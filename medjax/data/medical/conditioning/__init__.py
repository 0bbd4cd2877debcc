"""What is done to a dataset before a model learns from it; every step says what it dropped."""
