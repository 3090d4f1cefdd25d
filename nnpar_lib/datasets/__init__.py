"""The files of the data sets, and what torchvision needs to read them."""
