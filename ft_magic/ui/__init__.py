"""What people see: charts, live output, tables and the report."""
