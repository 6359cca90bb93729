"""Process large tables batch by batch, each with a commit of its own."""
