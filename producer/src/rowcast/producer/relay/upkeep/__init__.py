"""Keep the outbox in order beside publishing: warn of stalls, vacuum."""
