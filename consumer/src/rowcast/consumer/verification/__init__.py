"""``rowcast verify``: compare the rows of primary and replica."""
