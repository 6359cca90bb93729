"""Write the outbox at commit: an INSERT … SELECT makes the row images of the noted keys."""
