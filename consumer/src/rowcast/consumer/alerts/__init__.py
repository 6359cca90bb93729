"""``rowcast alerts``: send an alert once when a part of rowcast fails, and once when the part is well again."""
