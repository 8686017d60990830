"""Trains networks on data sets. catalog.py lists the networks, and recipes.py lists the recipes.

cli, run_settings, training_session   the command ``hangtag train``: its help, its options and their checks, its work
loop        the training loop, checkpoints, optimizers
tasks       what a network learns: one label or several labels per image, with or without a teacher
runs        the folder and files of a run
losses, metrics, networks, report     the losses, the figures of predictions, the layers, the HTML page of a run
data        data sets, whose files are checked against published digests, and the user's own pictures
processes, progress      the ranks of a run and how they are started; the observers of a run
"""
