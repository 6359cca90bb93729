"""Hold what both sides share: events, table shapes, row images, configuration, errors. Private to rowcast."""
