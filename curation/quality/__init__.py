"""Videos whose truth is known by construction, and what the curation's detectors make of them."""
