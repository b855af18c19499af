"""Tools over whole data sets, dealt out to ranks: import, reshard, split, verify, statistics."""
