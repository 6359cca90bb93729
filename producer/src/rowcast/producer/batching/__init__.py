"""Process large tables batch by batch, with a commit for each batch."""
