"""A trained model on images, videos and cameras: what ``tools/demo.py`` runs."""
