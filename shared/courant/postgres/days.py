"""The tables that have a partition a day, and the functions of the database that make and drop one.

They run with their owner's rights, so that no service needs to own a table: what they bear is all
that a service can do to one. Every upgrade of the schema makes them anew.
"""

DAILY = ("notifications", "events")
DAYS_KEPT_MIN = 17
"""No younger day can be dropped: 3 days of content are the fewest, its rows stay for 14 more."""

# ruff: noqa: S608  (every word of SQL that is put together here is ours)

MAKE_DAY = "SELECT courant_make_day(%(daily)s, %(day)s)"
"""Tells whether the day was missing."""
DROP_DAY = "SELECT courant_drop_day(%(daily)s, %(day)s)"
SIGNATURES = ("courant_make_day(text, int)", "courant_drop_day(text, int)")
LOCK = "SELECT pg_advisory_xact_lock(hashtext('courant.days'))"
"""Held by whoever makes or drops days, so that two do not make the same one."""

# With a fixed search_path, nobody's table or operator of another schema stands in for ours; what a
# temporary one is called must not matter either, hence pg_temp, last.
DEFINER = "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
KNOWN = f"""
    IF daily NOT IN ({", ".join(f"'{table}'" for table in DAILY)}) THEN
        RAISE 'no table with a partition a day: %', daily USING ERRCODE = '22023';
    END IF;
    PERFORM {LOCK.removeprefix("SELECT ")};"""
# Made aside, then attached, so that nobody waits. An id begins with 48 bits of milliseconds.
MAKE = f"""
CREATE OR REPLACE FUNCTION courant_make_day(daily text, day int) RETURNS boolean
{DEFINER} SET lock_timeout = '2s' AS $$
DECLARE
    name text := daily || '_' || day;
    ms bigint := 86400000;
    first uuid := rpad(lpad(to_hex(day * ms), 12, '0'), 32, '0');
    next uuid := rpad(lpad(to_hex((day + 1) * ms), 12, '0'), 32, '0');
BEGIN
    {KNOWN}
    IF to_regclass('public.' || name) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format(
        'CREATE TABLE public.%I (LIKE public.%I INCLUDING ALL EXCLUDING IDENTITY)', name, daily);
    EXECUTE format(
        'ALTER TABLE public.%I ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
        daily, name, first, next);
    RETURN true;
END $$"""
# Dropping locks the whole table for a moment. While it waits for that lock all others wait behind
# it: so it soon gives up, and is tried again minutes later.
DROP = f"""
CREATE OR REPLACE FUNCTION courant_drop_day(daily text, day int) RETURNS void
{DEFINER} SET lock_timeout = '200ms' AS $$
BEGIN
    {KNOWN}
    IF day >= floor(extract(epoch FROM now()) / 86400) - {DAYS_KEPT_MIN} THEN
        RAISE 'day % is not past what must be kept', day USING ERRCODE = '22023';
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS public.%I', daily || '_' || day);
END $$"""
FUNCTIONS = ";".join(
    (MAKE, DROP, *(f"\nREVOKE ALL ON FUNCTION {each} FROM PUBLIC" for each in SIGNATURES))
)
