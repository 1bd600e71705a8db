-- Holds and books. Like the other guards these run at the end of the statement that wrote, whoever wrote it.

-- A transfer has entries. That they are complete, balance and stay in one book is checked where entries are written:
-- entries without their transfer are refused there, so every transfer's entries have been through that check.
CREATE OR REPLACE FUNCTION ledger_check_transfers() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE wrong text;
BEGIN
    SELECT t.key INTO wrong
    FROM inserted t
    WHERE NOT EXISTS (SELECT FROM ledger_entry e WHERE e.transfer_id = t.id)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transfer % does not balance: it has no entries', wrong USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

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

    SELECT e.account_id::text INTO wrong
    FROM (
        SELECT account_id, account_version, previous_atomic, balance_atomic,
               lag(account_version) OVER history AS version_before, lag(balance_atomic) OVER history AS balance_before,
               lead(account_version) OVER history IS NULL AS is_last
        FROM inserted WINDOW history AS (PARTITION BY account_id ORDER BY account_version)
    ) e
    LEFT JOIN ledger_entry p
        ON e.version_before IS NULL AND p.account_id = e.account_id AND p.account_version = e.account_version - 1
    LEFT JOIN ledger_account a ON e.is_last AND a.id = e.account_id
    WHERE e.account_version <> coalesce(e.version_before, p.account_version, 0) + 1
       OR e.previous_atomic <> coalesce(e.balance_before, p.balance_atomic, 0)
       OR (e.is_last AND (a.version IS DISTINCT FROM e.account_version
                          OR a.balance_atomic IS DISTINCT FROM e.balance_atomic))
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entries do not follow the history of account %', wrong USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

-- A balance changes only together with the entry that explains it, what is held only together with the holds that add
-- up to it, and an account keeps its name.
CREATE OR REPLACE FUNCTION ledger_check_accounts() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE wrong text;
BEGIN
    SELECT a.id::text INTO wrong
    FROM after_change a
    JOIN before_change b ON b.id = a.id
    LEFT JOIN ledger_entry e ON e.account_id = a.id AND e.account_version = a.version
    WHERE (a.kind, a.owner, a.sub, a.currency, a.book, a.shard) <> (b.kind, b.owner, b.sub, b.currency, b.book, b.shard)
       OR (a.version = 0 AND a.balance_atomic <> 0)
       OR (a.version > 0 AND e.balance_atomic IS DISTINCT FROM a.balance_atomic)
       OR a.version < b.version
    LIMIT 1;
    IF FOUND OR (SELECT count(*) FROM after_change a JOIN before_change b USING (id)) <> (SELECT count(*) FROM after_change)
    THEN
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

CREATE OR REPLACE FUNCTION ledger_check_new_accounts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM inserted WHERE version <> 0 OR balance_atomic <> 0 OR held_atomic <> 0) THEN
        RAISE EXCEPTION 'an account begins empty' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

-- Holds are kept for ever, begin open, and change once: from open to how they ended.
CREATE TRIGGER ledger_hold_permanent BEFORE DELETE ON ledger_hold
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_hold_no_truncate BEFORE TRUNCATE ON ledger_hold
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

CREATE FUNCTION ledger_check_new_holds() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE wrong text;
BEGIN
    IF EXISTS (SELECT FROM inserted WHERE state <> 'OPEN') THEN
        RAISE EXCEPTION 'a hold begins open' USING ERRCODE = 'check_violation';
    END IF;
    SELECT a.id::text INTO wrong
    FROM (SELECT DISTINCT account_id FROM inserted) i
    JOIN ledger_account a ON a.id = i.account_id
    WHERE a.held_atomic <> (
        SELECT coalesce(sum(h.amount_atomic), 0) FROM ledger_hold h WHERE h.account_id = a.id AND h.state = 'OPEN'
    )
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'what account % holds is not the sum of its open holds', wrong USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER ledger_hold_begins_open AFTER INSERT ON ledger_hold
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_new_holds();

-- A posted hold names the transfer that took from its account exactly what it says.
CREATE FUNCTION ledger_check_holds() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE wrong text;
BEGIN
    SELECT a.key INTO wrong
    FROM after_change a
    LEFT JOIN before_change b ON b.id = a.id
    WHERE b.id IS NULL OR b.state <> 'OPEN' OR a.state = 'OPEN'
       OR (a.key, a.input_hash, a.account_id, a.amount_atomic, a.expires_at, a.created_at)
          IS DISTINCT FROM (b.key, b.input_hash, b.account_id, b.amount_atomic, b.expires_at, b.created_at)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'hold % resolves once and changes nothing else', wrong USING ERRCODE = 'check_violation';
    END IF;
    SELECT a.key INTO wrong
    FROM after_change a
    WHERE a.state = 'POSTED' AND NOT EXISTS (
        SELECT FROM ledger_entry e
        WHERE e.transfer_id = a.transfer_id AND e.account_id = a.account_id AND e.amount_atomic = -a.posted_atomic
    )
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'hold % was not posted by that transfer', wrong USING ERRCODE = 'check_violation';
    END IF;
    SELECT a.id::text INTO wrong
    FROM (SELECT DISTINCT account_id FROM after_change) i
    JOIN ledger_account a ON a.id = i.account_id
    WHERE a.held_atomic <> (
        SELECT coalesce(sum(h.amount_atomic), 0) FROM ledger_hold h WHERE h.account_id = a.id AND h.state = 'OPEN'
    )
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'what account % holds is not the sum of its open holds', wrong USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER ledger_hold_resolves_once AFTER UPDATE ON ledger_hold
    REFERENCING OLD TABLE AS before_change NEW TABLE AS after_change
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_holds();

ALTER FUNCTION ledger_check_transfers() SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION ledger_check_entries() SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION ledger_check_accounts() SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION ledger_check_new_holds() SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION ledger_check_holds() SET plan_cache_mode = force_custom_plan;
