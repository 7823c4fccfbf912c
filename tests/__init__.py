"""Facts, equivalence, physics and behaviour: what the README claims, checked."""
