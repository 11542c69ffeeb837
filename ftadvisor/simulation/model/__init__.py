"""The model as training begins: built from its configuration, quantised, adapted."""
