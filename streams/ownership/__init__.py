"""Who writes an output, and who bears a worker's name, among all that share a broker: one owner of each."""
