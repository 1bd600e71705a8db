"""The agent client: its rules as pure code, and over real HTTP."""
