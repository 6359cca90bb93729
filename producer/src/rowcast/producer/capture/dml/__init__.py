"""Find the keys of the rows changed by a DML statement, and of the rows that foreign keys change with them."""
