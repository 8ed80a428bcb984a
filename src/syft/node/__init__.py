"""Workers that data owners serve over the network, and the way to them."""
