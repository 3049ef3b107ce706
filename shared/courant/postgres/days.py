"""The tables with a partition for each day, and the database functions that make and drop one.

The functions run with their owner's rights, so that no service needs to own a table. A service can
do to a partition only what these functions allow. Every upgrade of the schema creates them again.
"""

DAILY = ("notifications", "events")
DAYS_KEPT_MIN = 17
"""No younger day can be dropped: content is kept for at least 3 days, its rows for 14 more."""

# ruff: noqa: S608  (every word of SQL that is put together here is ours)

MAKE_DAY = "SELECT courant_make_day(%(daily)s, %(day)s)"
"""Returns whether the day was missing."""
DROP_DAY = "SELECT courant_drop_day(%(daily)s, %(day)s)"
SIGNATURES = ("courant_make_day(text, int)", "courant_drop_day(text, int)")
LOCK = "SELECT pg_advisory_xact_lock(hashtext('courant.days'))"
"""Held while days are made or dropped, so that two processes do not make the same day."""

# The fixed search_path keeps tables and operators of other schemas from replacing ours. pg_temp is
# last, so that a temporary table cannot replace ours either.
DEFINER = "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
KNOWN = f"""
    IF daily NOT IN ({", ".join(f"'{table}'" for table in DAILY)}) THEN
        RAISE 'no table with a partition a day: %', daily USING ERRCODE = '22023';
    END IF;
    PERFORM {LOCK.removeprefix("SELECT ")};"""
# The partition is made as a table of its own and then attached, so that no other statement waits.
# An id begins with 48 bits of milliseconds.
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
# Dropping locks the whole table for a moment. While it waits for that lock, all other statements
# wait behind it. It therefore gives up after 200 ms, and recovery retries it minutes later.
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
    (MAKE, DROP, *(f"\nREVOKE ALL ON FUNCTION {name} FROM PUBLIC" for name in SIGNATURES))
)
