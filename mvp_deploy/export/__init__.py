"""From a finished run to a bundle: artefacts, precisions, engines."""
