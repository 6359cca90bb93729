"""Turn shapes and changes of the source into shapes and changes of a replica with a part of the columns and rows."""
