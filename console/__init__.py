"""The operator's page in a browser, its recordings and its web server."""
