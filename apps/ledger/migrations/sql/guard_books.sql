-- The check of entries once more. That they are of one book and currency is asked of the statement's accounts, of which
-- there are fewer than entries; only a statement that touches several books asks each transfer. That every entry's
-- account exists follows from the last check: each account's last entry has to be its row's.

CREATE OR REPLACE FUNCTION ledger_check_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE wrong text;
BEGIN
    SELECT e.transfer_id::text INTO wrong
    FROM (SELECT transfer_id, count(*) AS entries, sum(amount_atomic) AS total FROM inserted GROUP BY transfer_id) e
    LEFT JOIN ledger_transfer t ON t.id = e.transfer_id
    WHERE t.entry_count IS DISTINCT FROM e.entries OR e.total <> 0
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entries do not complete transfer %', wrong USING ERRCODE = 'check_violation';
    END IF;

    -- Nearly every statement is within one book and currency. Where it is not, each transfer has to be.
    IF (
        SELECT count(*) FROM (
            SELECT DISTINCT (SELECT a.book || ' ' || a.currency FROM ledger_account a WHERE a.id = i.account_id)
            FROM (SELECT DISTINCT account_id FROM inserted) i
        ) books
    ) > 1 THEN
        SELECT e.transfer_id::text INTO wrong
        FROM (
            SELECT i.transfer_id, min(a.currency) = max(a.currency) AND min(a.book) = max(a.book) AS one_book
            FROM inserted i
            LEFT JOIN ledger_account a ON a.id = i.account_id
            GROUP BY i.transfer_id
        ) e
        WHERE e.one_book IS NOT TRUE
        LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'entries do not complete transfer %: several books', wrong
                USING ERRCODE = 'check_violation';
        END IF;
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

ALTER FUNCTION ledger_check_entries() SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION ledger_check_entries() SET enable_hashjoin = off;
ALTER FUNCTION ledger_check_entries() SET enable_mergejoin = off;
