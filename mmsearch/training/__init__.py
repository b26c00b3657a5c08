"""`mmsearch train`: a head behind a frozen encoder, learned from a person's own captions. Needs the extra [train]."""

from mmsearch.training.fit import Recipe
from mmsearch.training.tuning import TuneReport, tune

__all__ = ["Recipe", "TuneReport", "tune"]
