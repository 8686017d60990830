"""Draws the parts that all HTML pages share: layout, light and dark colours, and pictures."""
