"""The code that talks to the world outside."""
