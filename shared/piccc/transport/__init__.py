"""The rooms that touch the network and the clock; everything above them is pure or asks them."""
