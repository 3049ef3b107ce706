"""Who calls: authentication, the safelist, limits and fair shares."""
