"""Give whole transactions to something that is no replica database: a search index, a cache, another database."""
