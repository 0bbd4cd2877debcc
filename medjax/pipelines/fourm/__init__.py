"""4M: tokenizers of images and masks, and one model of every modality."""
