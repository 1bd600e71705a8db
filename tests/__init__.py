"""The test suite; `tests.plugin` starts the services it runs on."""
