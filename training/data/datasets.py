"""The data sets' names, for those too who must do without torch."""

SINGLE_LABEL = "fashion-mnist"
OUTFITS = ("outfits", "outfits-independent")
MULTI_LABEL = (*OUTFITS, "voc2007")
DATASETS = (SINGLE_LABEL, *MULTI_LABEL)
