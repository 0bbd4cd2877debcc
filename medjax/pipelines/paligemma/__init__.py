"""PaliGemma: fine-tuning on questions about images."""
