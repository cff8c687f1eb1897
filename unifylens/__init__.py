"""Grow tiny multilingual Transformers in a dish and see what makes a fact one representation or two."""
