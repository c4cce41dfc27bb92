"""Pictures: readers, autoencoders, repairs, metrics, files, commands and the page's part."""
