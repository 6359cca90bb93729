"""Open database engines and read what drivers report."""
