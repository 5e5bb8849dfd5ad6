"""How fast, against what memory allows and against other libraries: `make bench`. README.md has the protocol."""
