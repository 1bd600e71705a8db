"""The bytes that everybody signs: golden vectors, strict readers, round trips."""
