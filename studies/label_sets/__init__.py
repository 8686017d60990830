"""Whether CNN-RNN predicts sets of labels better than networks that score each label alone: docs/cnn-rnn.md.

run trains four networks on two data sets, results.jsonl keeps the figures, report writes the page.
"""
