"""Between a robot and its policy: messages, sockets, keys, client and server."""
