"""Trains networks on data sets. catalog.py lists the networks, and recipes.py lists the recipes.

cli, settings, session   the command ``hangtag train``: its help, its options and their checks, and its work
loop        the training loop, checkpoints, optimizers
tasks       what a network learns: one label or several labels per image, with or without a teacher
runs        the folder and files of a run
losses      the losses of logits against labels
metrics     the metrics of predictions
networks    the networks, layer by layer
data        data sets, whose files are checked against published digests, and the user's own pictures
report      the HTML page of a run
processes, progress      the ranks of a run and how they are started; the observers of a run
"""
