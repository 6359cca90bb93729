"""Keep the notes of each open transaction: the keys of changed rows, and refused commits."""
