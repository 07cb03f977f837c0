"""The operator's side of a run: session, links, mirrors."""
