"""Where structures come from: files, tables, public sets, Materials Project, OPTIMADE."""
