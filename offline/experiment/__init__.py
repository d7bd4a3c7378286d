"""``ranktower experiment``: the paper's tables, and more, on one data set, resumable run by run."""
