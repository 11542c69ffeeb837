"""From a situation to a plan: rules over facts, quality from evidence, a search over settings."""
