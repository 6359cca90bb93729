"""What both sides of rowcast share: the contracts (events, table shapes, row images), configuration, errors."""
