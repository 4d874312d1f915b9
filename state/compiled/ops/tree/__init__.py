"""Hoeffding trees on the machine: how they are kept, grown, asked, taught and stored.

A tree is nodes and the cells of their lists, in two arrays that Python enlarges between two records.
"""
