"""Read topics and assemble whole transactions. This room never imports the replica."""
