"""How good the model is on rows that it was not trained on, before and after."""
