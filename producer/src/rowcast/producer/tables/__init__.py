"""Choose the tables to capture, and define the form of the published rows."""
