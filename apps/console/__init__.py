"""The pages that people see, rendered on the server. Reads the other apps' selectors; owns no tables and no money."""
