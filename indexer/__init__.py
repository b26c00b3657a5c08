"""The offline indexing pipeline: `index` brings a collection up to date, `reembed` brings it to another encoder.

Other applications may have a module called `indexer`; `mmsearch.index` is the documented way to call this one.
"""

from indexer.reembedding import reembed
from indexer.report import Failed, IndexReport, Progress, ReembedReport
from indexer.run import index

__all__ = ["Failed", "IndexReport", "Progress", "ReembedReport", "index", "reembed"]
