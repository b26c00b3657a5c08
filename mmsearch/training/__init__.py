"""`mmsearch train`: a head behind a frozen encoder, or a reranker for it, from one's own captions. Needs [train]."""

from mmsearch.training.fit import Recipe
from mmsearch.training.gather import Report
from mmsearch.training.rerank.recipe import MatchRecipe
from mmsearch.training.reranking import RerankReport, train_reranker
from mmsearch.training.tuning import TuneReport, tune

__all__ = ["MatchRecipe", "Recipe", "Report", "RerankReport", "TuneReport", "train_reranker", "tune"]
