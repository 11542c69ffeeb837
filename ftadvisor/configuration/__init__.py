"""A user's words to settings: checked, completed with defaults, every assumption said."""
