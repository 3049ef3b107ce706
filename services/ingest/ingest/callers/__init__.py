"""Checks of the calling service: authentication, safelist, limits and fair shares."""
