"""Several training sets to compare, alike in all but what they are chosen by."""
