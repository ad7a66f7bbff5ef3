"""Success over many scenes, with intervals, a page and a file of figures."""
