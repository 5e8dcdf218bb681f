"""What a training's log and a model's predictions show: curves, kinds of errors, confusions.

Import the modules themselves; reading a log needs none of the others.
"""
