"""``rowcast replay``: write the transactions of a range of the topics again."""
