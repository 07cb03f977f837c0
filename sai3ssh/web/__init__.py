"""The live page and the metrics of the runs in a results directory. Reads only."""
