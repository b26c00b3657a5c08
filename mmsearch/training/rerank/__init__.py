"""How a reranker is learned: a matcher of pictures and texts on the frozen tokens of an encoder.

`matcher`, `learner`, `candidates` and `export` need torch: `mmsearch.training.reranking` imports them after it has
asked for it.
"""
