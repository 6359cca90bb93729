"""Run the workers of a process as users start them."""
