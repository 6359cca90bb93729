"""Capture a program that knows nothing of rowcast: ``rowcast instrument``."""
