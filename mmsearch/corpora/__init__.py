"""Readers of captions beside pictures and of captioned corpora."""
