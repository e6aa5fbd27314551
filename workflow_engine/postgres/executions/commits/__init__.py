"""The commit of a node.

- `documents`: encodes a commit for `commit_node`, and decodes its result and rows of the journal
- `group_commit`: siblings that end at the same moment are committed by one statement
"""
