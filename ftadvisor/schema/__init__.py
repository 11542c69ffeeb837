"""The nouns: typed, frozen records."""
