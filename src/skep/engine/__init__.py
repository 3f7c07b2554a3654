"""Live coordination: who may do what now. Rebuildable from the record."""
