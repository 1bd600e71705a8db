"""The REST views of the payments app. Hot paths are not here: those are the relayer's."""
