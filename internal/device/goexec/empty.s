// So that getBuffer may have no body.
