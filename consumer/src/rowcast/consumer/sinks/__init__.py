"""Give whole transactions to a system other than a replica database: a search index, a cache, another database."""
