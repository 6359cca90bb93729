"""Open database engines and read the reports of drivers."""
