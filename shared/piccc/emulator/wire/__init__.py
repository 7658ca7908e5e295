"""The forms of the wire: what each route takes, and what it gives back."""
