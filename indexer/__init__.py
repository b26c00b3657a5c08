"""The offline indexing pipeline: `index` brings a collection up to date with its sources.

Other applications may have a module called `indexer`; `mmsearch.index` is the documented way to call this one.
"""

from indexer.report import Failed, IndexReport, Progress
from indexer.run import index

__all__ = ["Failed", "IndexReport", "Progress", "index"]
