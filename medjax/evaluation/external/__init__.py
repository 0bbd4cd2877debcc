"""Answers of models that are not medjax's: read from their files, joined with what is true."""
