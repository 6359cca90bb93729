"""Turn shapes and changes of the source into those of a replica that takes a part of the columns and rows."""
