"""Results as one page for a browser: what it shows is computed here, `assets/` draws it and filters.

`data` computes, `pictures` shrinks images, `page` packs everything into one file of HTML.
"""
