"""``rowcast alerts``: send an alert once when something is not as it should be, and once when it is again."""
