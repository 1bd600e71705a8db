"""Who may sign in: users and, later, their keys, pairing codes and alerts. Knows nothing of money."""
