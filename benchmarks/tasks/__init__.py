"""Tasks and the classification kinds: kNN, linear, few-shot, fine-tuning."""
