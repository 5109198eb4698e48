"""Reading: any source people have becomes records, before any column is understood."""
