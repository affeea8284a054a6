"""What happens, told to whoever listens: a ring of what happened last, and subscriptions that never hold up the teller."""
