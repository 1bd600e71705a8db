-- The checks compare a few new rows with tables that grow without bound. Statistics of those tables are late or missing
-- when it matters, and a planner that believes them reads an account's whole history to join it. So stored rows are only
-- ever looked up one by one: by scalar subqueries, which are not joined, and by nested loops where there is a join.

CREATE OR REPLACE FUNCTION ledger_check_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE wrong text;
BEGIN
    SELECT e.transfer_id::text INTO wrong
    FROM (
        SELECT i.transfer_id, count(a.id) AS entries, sum(i.amount_atomic) AS total,
               min(a.currency) = max(a.currency) AND min(a.book) = max(a.book) AS one_book
        FROM inserted i
        LEFT JOIN ledger_account a ON a.id = i.account_id
        GROUP BY i.transfer_id
    ) e
    LEFT JOIN ledger_transfer t ON t.id = e.transfer_id
    WHERE t.entry_count IS DISTINCT FROM e.entries OR e.total <> 0 OR e.one_book IS NOT TRUE
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entries do not complete transfer %', wrong USING ERRCODE = 'check_violation';
    END IF;

    -- Each entry against the one before it, which is another new one or, for the first, the stored one; and the
    -- account's row against the last.
    SELECT e.account_id::text INTO wrong
    FROM (
        SELECT account_id, account_version, previous_atomic, balance_atomic,
               lag(account_version) OVER history AS version_before, lag(balance_atomic) OVER history AS balance_before,
               lead(account_version) OVER history IS NULL AS is_last
        FROM inserted WINDOW history AS (PARTITION BY account_id ORDER BY account_version)
    ) e
    WHERE CASE
            WHEN e.version_before IS NOT NULL
                THEN e.account_version <> e.version_before + 1 OR e.previous_atomic <> e.balance_before
            WHEN e.account_version = 1 THEN e.previous_atomic <> 0
            ELSE e.previous_atomic IS DISTINCT FROM (
                SELECT p.balance_atomic FROM ledger_entry p
                WHERE p.account_id = e.account_id AND p.account_version = e.account_version - 1
            )
        END
       OR (e.is_last AND NOT EXISTS (
                SELECT FROM ledger_account a
                WHERE a.id = e.account_id AND a.version = e.account_version AND a.balance_atomic = e.balance_atomic
            ))
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entries do not follow the history of account %', wrong USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION ledger_check_accounts() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE wrong text;
BEGIN
    SELECT coalesce(a.id, b.id)::text INTO wrong
    FROM after_change a
    FULL JOIN before_change b ON b.id = a.id
    WHERE a.id IS NULL OR b.id IS NULL
       OR (a.kind, a.owner, a.sub, a.currency, a.book, a.shard) <> (b.kind, b.owner, b.sub, b.currency, b.book, b.shard)
       OR a.version < b.version
       OR (a.version = 0 AND a.balance_atomic <> 0)
       OR (a.version > 0 AND a.balance_atomic IS DISTINCT FROM (
                SELECT e.balance_atomic FROM ledger_entry e WHERE e.account_id = a.id AND e.account_version = a.version
            ))
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the balance of account % is not that of its last entry', wrong USING ERRCODE = 'check_violation';
    END IF;

    SELECT a.id::text INTO wrong
    FROM after_change a
    JOIN before_change b ON b.id = a.id AND b.held_atomic <> a.held_atomic
    WHERE a.held_atomic <> (
        SELECT coalesce(sum(h.amount_atomic), 0) FROM ledger_hold h WHERE h.account_id = a.id AND h.state = 'OPEN'
    )
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'what account % holds is not the sum of its open holds', wrong USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

ALTER FUNCTION ledger_check_transfers() SET enable_hashjoin = off;
ALTER FUNCTION ledger_check_transfers() SET enable_mergejoin = off;
ALTER FUNCTION ledger_check_entries() SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION ledger_check_entries() SET enable_hashjoin = off;
ALTER FUNCTION ledger_check_entries() SET enable_mergejoin = off;
-- Both sides of its joins are the statement's own rows.
ALTER FUNCTION ledger_check_accounts() SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION ledger_check_accounts() SET enable_nestloop = off;
