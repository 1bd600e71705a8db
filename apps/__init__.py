"""The Django apps of the network. Their layers are drawn in docs/architecture.md and kept by import-linter."""
