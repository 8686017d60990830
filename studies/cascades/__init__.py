"""What cascades of the shipped models keep of the accuracy and what they send on: a part of docs/routes.md.

run answers the images, times measures what an image takes in each model, report writes the page.
"""
