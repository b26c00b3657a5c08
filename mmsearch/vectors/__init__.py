"""Rows of vectors on disk and their search. The only home of FAISS."""
