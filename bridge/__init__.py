"""The doorway between mind and body: types, wire, control loop, data; it imports no other room."""
