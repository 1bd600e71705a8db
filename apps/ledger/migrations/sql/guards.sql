-- What the ledger's rows must always obey, whoever writes them.
--
-- A transfer, its entries and the new balances are written by one statement (see services/post.py). The checks below run at
-- the end of that statement, so nothing unbalanced or out of step is ever visible, not even inside its own transaction.

CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: correct with a new transfer', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER ledger_transfer_append_only BEFORE UPDATE OR DELETE ON ledger_transfer
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_entry_append_only BEFORE UPDATE OR DELETE ON ledger_entry
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_account_permanent BEFORE DELETE ON ledger_account
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

-- Separate triggers, because a test database is emptied with TRUNCATE between tests.
CREATE TRIGGER ledger_transfer_no_truncate BEFORE TRUNCATE ON ledger_transfer
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_entry_no_truncate BEFORE TRUNCATE ON ledger_entry
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_account_no_truncate BEFORE TRUNCATE ON ledger_account
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

-- Every transfer written by the statement has all its entries, they sum to zero and are of one currency.
CREATE FUNCTION ledger_check_transfers() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE wrong text;
BEGIN
    SELECT t.key INTO wrong
    FROM inserted t
    LEFT JOIN ledger_entry e ON e.transfer_id = t.id
    LEFT JOIN ledger_account a ON a.id = e.account_id
    GROUP BY t.id, t.key, t.entry_count
    HAVING count(a.id) <> t.entry_count OR sum(e.amount_atomic) <> 0 OR count(DISTINCT a.currency) <> 1
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transfer % does not balance', wrong USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER ledger_transfer_balanced AFTER INSERT ON ledger_transfer
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_transfers();

-- Entries belong to a transfer that balances with them, continue their account's history without a gap, and the account's row
-- shows the last of them.
CREATE FUNCTION ledger_check_entries() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE TRIGGER ledger_entry_follows AFTER INSERT ON ledger_entry
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_entries();

-- A balance changes only together with the entry that explains it, and an account keeps its name.
CREATE FUNCTION ledger_check_accounts() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE wrong text;
BEGIN
    SELECT a.id::text INTO wrong
    FROM after_change a
    JOIN before_change b ON b.id = a.id
    LEFT JOIN ledger_entry e ON e.account_id = a.id AND e.account_version = a.version
    WHERE (a.kind, a.owner, a.sub, a.currency) <> (b.kind, b.owner, b.sub, b.currency)
       OR (a.version = 0 AND a.balance_atomic <> 0)
       OR (a.version > 0 AND e.balance_atomic IS DISTINCT FROM a.balance_atomic)
       OR a.version < b.version
    LIMIT 1;
    IF FOUND OR (SELECT count(*) FROM after_change a JOIN before_change b USING (id)) <> (SELECT count(*) FROM after_change)
    THEN
        RAISE EXCEPTION 'the balance of account % is not that of its last entry', wrong USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER ledger_account_explained AFTER UPDATE ON ledger_account
    REFERENCING OLD TABLE AS before_change NEW TABLE AS after_change
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_accounts();

-- An account begins empty.
CREATE FUNCTION ledger_check_new_accounts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM inserted WHERE version <> 0 OR balance_atomic <> 0) THEN
        RAISE EXCEPTION 'an account begins empty' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER ledger_account_begins_empty AFTER INSERT ON ledger_account
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_new_accounts();

-- The checks join small sets of new rows with tables that grow without bound. A plan made while the tables were small would
-- be kept and get slower with history, so every run is planned for the sizes of the moment.
ALTER FUNCTION ledger_check_transfers() SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION ledger_check_entries() SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION ledger_check_accounts() SET plan_cache_mode = force_custom_plan;
