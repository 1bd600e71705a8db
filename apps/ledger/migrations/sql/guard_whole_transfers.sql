-- A transfer has exactly the entries it was stored with. That the new ones balance among themselves does not say so: as
-- many again, balanced and continuing their accounts' histories, would be a second transfer under the first one's key.

CREATE FUNCTION ledger_check_whole_transfers() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE wrong text;
BEGIN
    SELECT i.transfer_id::text INTO wrong
    FROM inserted i
    GROUP BY i.transfer_id
    HAVING count(*) <> (SELECT count(*) FROM ledger_entry e WHERE e.transfer_id = i.transfer_id)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entries are added to stored transfer %', wrong USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER ledger_entry_whole AFTER INSERT ON ledger_entry
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_whole_transfers();

-- One look-up by index per transfer, whatever the history, and never planned anew.
ALTER FUNCTION ledger_check_whole_transfers() SET plan_cache_mode = force_generic_plan;
ALTER FUNCTION ledger_check_whole_transfers() SET enable_seqscan = off;
