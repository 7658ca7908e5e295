"""The API reference, made from the docstrings: `python -m reference`."""
