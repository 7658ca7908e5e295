"""Waiting for tasks and fetching what they made."""
