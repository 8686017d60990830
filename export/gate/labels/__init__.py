"""Checks that compare a file's answers with PyTorch's: logits, accuracy, label sets and label paths."""
