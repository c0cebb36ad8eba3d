"""Readers: each turns one kind of source (Hub, tables, class folders, ...) into raw splits."""
